"""Label map -> DICOM SEG beside the series it was made from. Needs the extra `dicom` (highdicom)."""

from __future__ import annotations

import contextlib
import re
import warnings as python_warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medseg
from medseg.errors import DataError, GridMismatchError, LabelError

from ..atomic import atomic_path
from ..header import Header
from .dicom_mosaic import is_mosaic
from .dicom_slices import read_dataset


@dataclass(frozen=True)
class Code:
    """One entry of a terminology, such as Code("10200004", "SCT", "Liver")."""

    value: str
    scheme: str
    meaning: str


# SNOMED CT, as DICOM's context groups 7150 and 7151 use it
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_ABNORMAL_WORDS = {
    "lesion",
    "tumor",
    "tumour",
    "neoplasm",
    "mass",
    "edema",
    "oedema",
    "necrosis",
    "nodule",
    "cyst",
    "metastasis",
}
_SPELLINGS = {
    "Tumor": "Neoplasm",
    "Tumour": "Neoplasm",
    "Oedema": "Edema",
    "GreyMatter": "GrayMatter",
    "Csf": "CerebrospinalFluid",
}


@dataclass(frozen=True)
class Segment:
    """What one label value means, for DICOM."""

    name: str
    category: Code = ANATOMY
    kind: Code = TISSUE


def segment_for(name: str, codes: Mapping[str, Mapping[str, str]] | None = None) -> Segment:
    """Codes for a label name: from the bundle's label file, else pydicom's SNOMED dictionary, else "Tissue".

    Args:
        name: such as "Left Kidney" or "liver".
        codes: {"category": {"value", "scheme", "meaning"}, "type": {...}}, or None.

    Raises:
        LabelError: codes without value, scheme or meaning.
    """
    words = [word for word in re.split(r"[^A-Za-z]+", name) if word]
    category = ABNORMAL if _ABNORMAL_WORDS & {word.lower() for word in words} else ANATOMY
    kind = _snomed(words) or TISSUE
    if codes:
        category = _code(name, codes.get("category")) or category
        kind = _code(name, codes.get("type")) or kind
    return Segment(name, category, kind)


def write_segmentation(path: Path, label: NDArray[np.integer], like: Header, segments: Mapping[int, Segment]) -> None:
    """Write a label map as DICOM SEG that refers to the series of `like`, whole or not at all.

    Args:
        path: ends in .dcm.
        label: (X, Y, Z) on the grid of `like`.
        like: header of the DICOM series that was segmented.
        segments: label value -> meaning, background left out; values of the map that are missing here are an error.

    Raises:
        DataError: `like` is no DICOM series of single images or one multi-frame file, or highdicom is not installed.
        LabelError: an undeclared value, or no segment at all.
        GridMismatchError: another shape.
        ResourceError: the file cannot be written.
    """
    if not like.series:
        raise DataError(
            f"{path}: DICOM SEG refers to a DICOM series, but {like.path} is none; write NIfTI or NRRD instead."
        )
    if tuple(label.shape) != tuple(like.shape):
        raise GridMismatchError(f"{path}: label map of shape {label.shape} for a series of {tuple(like.shape)}.")
    present = [int(value) for value in np.unique(label) if value != 0]
    unknown = [value for value in present if value not in segments]
    if unknown or not segments:
        cause = f"the label value {unknown[0]} has no name" if unknown else "no label has a name"
        raise LabelError(f"{path}: {cause}; name it in the bundle's labels.")
    # without any labelled voxel the declared segments are written empty: "nothing found" is an answer too
    dataset = _segmentation(label, like, {value: segments[value] for value in present or segments})
    _keep_wanted(dataset)
    with atomic_path(path) as temporary:
        dataset.save_as(temporary)


# What the standard wants of patient and study in a segmentation (types 1 and 2); the UIDs and dates are not touched.
WANTED_OF_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
FREE_TEXTS_OF_STUDY = (
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "AdmittingDiagnosesDescription",
    "ReasonForVisit",
    "ReasonForPerformedProcedureCodeSequence",
)


def _keep_wanted(dataset: Any) -> None:
    """Drop what highdicom copies from the source beyond the wanted attributes: comments, history, visit."""
    for element in list(dataset):
        group = element.tag.group
        if (group == 0x0010 and element.keyword not in WANTED_OF_PATIENT) or group in (0x0032, 0x0038):
            del dataset[element.tag]
    for keyword in FREE_TEXTS_OF_STUDY:
        if keyword in dataset:
            delattr(dataset, keyword)


def _segmentation(label: NDArray[np.integer], like: Header, segments: Mapping[int, Segment]) -> Any:
    try:
        import highdicom as hd
    except ImportError:
        raise DataError("DICOM SEG needs the package highdicom; install it: pip install 'medseg[dicom]'.") from None
    from pydicom.uid import ExplicitVRLittleEndian

    numbers = np.zeros(max(*segments, int(label.max())) + 1, dtype=np.uint16)  # SEG numbers its segments 1, 2, 3, ...
    numbers[list(segments)] = np.arange(1, len(segments) + 1)
    frames = numbers[label].transpose(2, 1, 0)  # (slices, rows, columns), in the order of the source images
    sources = [_with_empty(read_dataset(file, pixels=True)) for file in like.series]
    if any(is_mosaic(source) for source in sources):
        raise DataError(
            f"{like.path}: is a mosaic, and a DICOM SEG refers to slices that are images of their own; write NIfTI or NRRD instead."
        )
    with python_warnings.catch_warnings(), _named(like.path):
        python_warnings.simplefilter("ignore")
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(frames),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(hd, number, segment) for number, segment in enumerate(segments.values(), start=1)
            ],
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="medseg",
            manufacturer_model_name="medseg",
            software_versions=medseg.__version__,
            device_serial_number="0",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )


# attributes of type 2: the standard wants them, empty where nobody knows; de-identified series lack them
MAY_BE_EMPTY = (
    *WANTED_OF_PATIENT, "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "SeriesNumber",
    "Manufacturer", "InstanceNumber", "PositionReferenceIndicator", "Laterality",
)  # fmt: skip


def _with_empty(dataset: Any) -> object:
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    return dataset


@contextlib.contextmanager
def _named(series: Path) -> Iterator[None]:
    """What highdicom raises of a series that lacks more than the standard allows, as one line that names it."""
    try:
        yield
    except (AttributeError, KeyError, ValueError, TypeError, IndexError) as error:
        cause = " ".join(str(error).split())[:160]
        raise DataError(
            f"{series}: no DICOM SEG can refer to it ({cause}); complete its headers, or write NIfTI or NRRD instead."
        ) from error


def _description(hd: Any, number: int, segment: Segment) -> object:
    def coded(code: Code) -> object:
        return hd.sr.CodedConcept(code.value, code.scheme, code.meaning[:64])

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=coded(segment.category),
        segmented_property_type=coded(segment.kind),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="medseg",
            version=medseg.__version__,
            family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        ),
    )


def _snomed(words: Sequence[str]) -> Code | None:
    """The concept whose keyword the words spell, also without a leading or trailing side."""
    try:
        from pydicom.sr.codedict import codes
    except ImportError:
        return None
    sides = {"left", "right", "l", "r"}
    without_side = [word for word in words if word.lower() not in sides]
    for candidate in (words, without_side):
        keyword = "".join(word.capitalize() for word in candidate)
        keyword = _SPELLINGS.get(keyword, keyword)
        if keyword and hasattr(codes.SCT, keyword):
            found = getattr(codes.SCT, keyword)
            return Code(str(found.value), "SCT", str(found.meaning))
    return None


def _code(name: str, entry: Mapping[str, str] | None) -> Code | None:
    if entry is None:
        return None
    missing = [key for key in ("value", "scheme", "meaning") if not entry.get(key)]
    if missing:
        raise LabelError(
            f"label {name!r}: its code {dict(entry)} has no {missing[0]!r}; complete it in the label file."
        )
    return Code(entry["value"], entry["scheme"], entry["meaning"])
