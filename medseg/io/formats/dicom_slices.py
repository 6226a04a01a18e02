"""One DICOM file -> its slices (one, or one per frame) and their pixel values. Everything that touches pydicom to read."""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError, MedsegError, UnreadableFileError

from .dicom_mosaic import is_mosaic, mosaic_of
from .stream import file_size, open_file

TAGS = [
    "SOPClassUID",
    "ImageType",
    "PatientID",
    "PatientName",
    "Modality",
    "SeriesInstanceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
NOT_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTPLAN", "PR", "KO", "REG", "DOC", "RWV"}
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane of voxels: where it lies (LPS mm) and how its stored numbers become values.

    `row` and `column` are the world directions in which the column index and the row index grow; `spacing` is DICOM's
    PixelSpacing (between rows, between columns); `frame` is None in a file of one image; `tile` is the slice's first row and column
    in the picture of a mosaic. `scaling` says where the values come from: `none` (stored as they are), `rescale` (slope and
    intercept), or `table` (a modality LUT). `patient` is for comparing alone, never for showing.
    """

    path: Path
    frame: int | None
    series: str
    number: int
    modality: str
    rows: int
    columns: int
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    slope: float
    inter: float
    dtype: np.dtype[Any]
    scaling: str = "none"
    patient: str = ""
    warnings: tuple[str, ...] = ()
    tile: tuple[int, int] | None = None


@functools.cache
def pydicom_module() -> Any:
    """pydicom, told to keep quiet about values that break the standard's formats (files do; we check what we use).

    Raises:
        DataError: it is not installed.
    """
    try:
        import pydicom
        from pydicom import config
    except ImportError:
        raise DataError(
            "DICOM needs the package pydicom, a part of every installation: pip install 'pydicom>=3'."
        ) from None
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(
        logging.CRITICAL
    )  # what it would say, our error says in one line with the file
    return pydicom


def slices_in(path: Path) -> list[Slice]:
    """The slices of one file, from its header; none for reports, structures and segmentations.

    Raises:
        UnreadableFileError: not DICOM, damaged or truncated.
        DataError: colour or deflated; GeometryError: an image without position or orientation.
    """
    dataset = read_dataset(path, pixels=False)
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # pydicom converts values when they are asked for
            if str(dataset.get("Modality", "")) in NOT_IMAGES or not dataset.get("Rows"):
                return []
            return _slices_of(path, dataset)
    except MedsegError:
        raise
    except Exception as error:  # pydicom raises what a broken value makes Python raise: any type
        raise UnreadableFileError(
            f"{path}: its DICOM header is damaged ({one_line(error)}); export it again."
        ) from None


def read_dataset(path: Path, *, pixels: bool, tags: Sequence[str] | None = TAGS) -> Any:
    """A pydicom dataset: all of it with `pixels`, else these elements of its header (None: all).

    Raises UnreadableFileError naming the cause, whatever it is.
    """
    pydicom = pydicom_module()
    with open_file(path) as file:
        start = file.read(132)
        if not start:
            raise UnreadableFileError(f"{path}: is empty (0 bytes); copy or export it again.")
        file.seek(0)
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                if _is_deflated(pydicom, file):
                    raise DataError(
                        f"{path}: is a deflated DICOM file, which cannot be limited in size; convert it first."
                    )
                dataset = pydicom.dcmread(
                    file,
                    stop_before_pixels=not pixels,
                    force=start[128:] != b"DICM",
                    specific_tags=None if pixels or tags is None else list(tags),
                )
        except MedsegError:
            raise
        except Exception as error:  # the same as above: the type says nothing
            raise UnreadableFileError(f"{path}: is not a readable DICOM file ({one_line(error)}).") from None
    if not pixels and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise UnreadableFileError(f"{path}: is not a DICOM file; remove it or check its name.")
    return dataset


def _is_deflated(pydicom: Any, file: Any) -> bool:
    try:
        meta = pydicom.filereader.read_partial(file, stop_when=lambda *_: True, specific_tags=[]).file_meta
    except Exception:  # no file meta group: then it is not deflated either
        return False
    finally:
        file.seek(0)
    return str(meta.get("TransferSyntaxUID", "")) == DEFLATED


def _slices_of(path: Path, dataset: Any) -> list[Slice]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    _check_kind(path, dataset)
    if min(rows, columns, frames) < 1:
        raise UnreadableFileError(f"{path}: declares {columns}x{rows} voxels in {frames} frames; export it again.")
    bits = int(dataset.get("BitsAllocated") or 0)
    if bits not in (8, 16, 32):
        raise DataError(f"{path}: has {bits} bits per voxel, expected 8, 16 or 32; convert it first.")
    _check_size(path, dataset, rows * columns * frames * bits // 8)
    dtype = np.dtype(f"{'i' if dataset.get('PixelRepresentation') else 'u'}{bits // 8}")
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    warnings = ("MONOCHROME1: its values are stored inverted and were kept as they are",) if inverted else ()
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and (per_frame is None or len(per_frame) != frames):
        raise GeometryError(
            f"{path}: has {frames} frames but does not say where each lies; export it as single images."
        )
    slices = []
    for frame in range(frames):
        groups = [group for group in (per_frame[frame] if per_frame else None, shared, dataset) if group is not None]
        row, column = _orientation(path, groups)
        scaling, slope, inter = _scaling(path, dataset, groups)
        slices.append(
            Slice(
                path=path,
                frame=frame if frames > 1 else None,
                series=str(dataset.get("SeriesInstanceUID", "")),
                number=int(dataset.get("InstanceNumber") or 0) + frame,
                modality=str(dataset.get("Modality", "")),
                rows=rows,
                columns=columns,
                position=_vector(path, groups, "PlanePositionSequence", "ImagePositionPatient", 3),
                row=row,
                column=column,
                spacing=_spacing(path, groups),
                thickness=_number(groups, "PixelMeasuresSequence", "SpacingBetweenSlices", 0.0)
                or _number(groups, "PixelMeasuresSequence", "SliceThickness", 0.0),
                slope=slope,
                inter=inter,
                dtype=dtype,
                scaling=scaling,
                patient=str(dataset.get("PatientID") or dataset.get("PatientName") or ""),
                warnings=warnings,
            )
        )
    return _tiles_of(slices[0], dataset) if is_mosaic(dataset) else slices


def _tiles_of(picture: Slice, dataset: Any) -> list[Slice]:
    """The slices of a mosaic, each with its own place. Raises DataError or GeometryError where its place is not known."""
    mosaic = mosaic_of(
        picture.path,
        read_dataset(picture.path, pixels=False, tags=None),
        corner=picture.position,
        axes=(picture.row, picture.column),
        spacing=picture.spacing,
        distance=picture.thickness,
    )
    warnings = picture.warnings
    if not dataset.get("SpacingBetweenSlices"):
        warnings += (
            f"a mosaic without SpacingBetweenSlices; its slices are taken to be {picture.thickness:g} mm apart",
        )
    return [
        dataclasses.replace(
            picture,
            tile=tile,
            position=position,
            rows=mosaic.rows,
            columns=mosaic.columns,
            number=picture.number + index,
            warnings=warnings,
        )
        for index, (tile, position) in enumerate(mosaic.tiles())
    ]


def _check_kind(path: Path, dataset: Any) -> None:
    """Refuse pictures whose numbers are no values: colours and tables of colours."""
    kind = str(dataset.get("PhotometricInterpretation") or "")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or kind not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise DataError(
            f"{path}: holds colours ({kind}), expected one number per voxel; export the images it was made from."
        )


def _scaling(path: Path, dataset: Any, groups: Sequence[Any]) -> tuple[str, float, float]:
    """Where values come from, slope and intercept. Raises DataError for a slope of 0, which would make all values one."""
    if dataset.get("ModalityLUTSequence"):
        return "table", 1.0, 0.0
    names = ("RescaleSlope", "RescaleIntercept")
    stated = any(_find(groups, "PixelValueTransformationSequence", name) is not None for name in names)
    slope, inter = (
        _number(groups, "PixelValueTransformationSequence", name, default)
        for name, default in zip(names, (1.0, 0.0), strict=True)
    )
    if slope == 0:
        raise DataError(f"{path}: has a RescaleSlope of 0, so that all voxels would have one value; export it again.")
    return ("rescale" if stated else "none"), slope, inter


def _check_size(path: Path, dataset: object, declared: int) -> None:
    """Uncompressed pictures must fit into the file: a truncated one is found without reading it."""
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "1.2.840.10008.1.2"))
    size = file_size(path)
    if syntax in UNCOMPRESSED and declared > size:
        raise UnreadableFileError(
            f"{path}: the header declares {declared} bytes of voxels, the file has {size}; it is truncated or its header is "
            "wrong. Copy or export it again."
        )


def _first(holder: Any, name: str) -> Any:
    sequence = holder.get(name)
    return sequence[0] if sequence else None


def _find(groups: Sequence[Any], sequence: str, name: str) -> Any:
    """A value of this frame, of all frames, or of the file: the first that states it."""
    for group in groups:
        inner = _first(group, sequence)
        for holder in (inner, group):
            value = holder.get(name) if holder is not None else None
            if value not in (None, ""):
                return value
    return None


def _vector(path: Path, groups: Sequence[Any], sequence: str, name: str, length: int) -> NDArray[np.float64]:
    value = _find(groups, sequence, name)
    values = np.array([float(one) for one in value] if value is not None else [], dtype=np.float64)
    if len(values) != length or not np.isfinite(values).all():
        raise GeometryError(
            f"{path}: has no usable {name}, so its place in the patient is unknown; export it from the scanner."
        )
    return values


def _orientation(path: Path, groups: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cosines = _vector(path, groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(float(row @ column)) > 1e-2:
        raise GeometryError(
            f"{path}: ImageOrientationPatient {cosines.tolist()} is no pair of directions; export it again."
        )
    return row / lengths[0], column / lengths[1]


def _spacing(path: Path, groups: Sequence[Any]) -> tuple[float, float]:
    spacing = _vector(path, groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise GeometryError(f"{path}: PixelSpacing is {spacing.tolist()} mm; export it again.")
    return float(spacing[0]), float(spacing[1])


def _number(groups: Sequence[Any], sequence: str, name: str, default: float) -> float:
    value = _find(groups, sequence, name)
    number = default if value is None else float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}")
    return number


def one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
