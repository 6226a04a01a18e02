"""Which files of a folder are label maps and not images: folders of datasets as people keep them.

images/ + labels/        imagesTr/ + labelsTr/ (imagesTs/ ...)        cases.csv        PATIENT/image.nii.gz + PATIENT/label.nii.gz
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from medseg.errors import DataError

from .atomic import is_temporary
from .datalist import read_case_list
from .volume import case_name, is_volume_file

LIST = "cases.csv"
# folder of label maps -> the folder of images that it belongs to
PARTNERS = {
    "labels": "images",
    "labelstr": "imagestr",
    "labelsts": "imagests",
    "labelsva": "imagesva",
    "labelsval": "imagesval",
    "test_labels": "test_images",
    "masks": "images",
    "segmentations": "images",
}
LABEL_WORDS = (
    "label",
    "labels",
    "labelmap",
    "seg",
    "segmentation",
    "mask",
    "gt",
    "ground_truth",
    "groundtruth",
    "annotation",
)
_WORDS = "|".join(sorted(LABEL_WORDS, key=len, reverse=True))
_SUFFIX = re.compile(rf"^(?P<case>.+?)[_.-](?:{_WORDS})$", re.IGNORECASE)


def is_label_folder(folder: Path) -> bool:
    """Whether a folder holds the label maps of the images beside it."""
    partner = PARTNERS.get(folder.name.lower())
    beside = {one.name.lower() for one in folder.parent.iterdir() if one.is_dir()} if partner else set()
    return partner in beside


def without_label_maps(files: Sequence[Path]) -> list[Path]:
    """The volumes of one folder without those that are named as label maps of others among them.

    Left out are NAME_seg, NAME_label, ... where NAME, NAME_0000 or a channel such as NAME_t1 lies beside it, and label, seg,
    mask, ... where another volume does.
    """
    names = {case_name(path).lower() for path in files}
    cases = {name[:at] for name in names if not _SUFFIX.match(name) for at in range(1, len(name)) if name[at] in "_.-"}
    names |= cases
    plain = [path for path in files if not _named_label(case_name(path), names)]
    return plain or list(files)


def maps_beside_series(place: Path, files: Sequence[Path]) -> list[Path]:
    """The label maps among the volume files of a folder whose image is a DICOM series: named as such, or the only one.

    Args:
        place: the patient's folder.
        files: its volume files.
    """
    named = [path for path in files if _named_label(case_name(path), {place.name.lower(), *_inside(place)})]
    return named or list(files[: len(files) == 1])


def _inside(place: Path) -> set[str]:
    return {one.name.lower() for one in place.iterdir() if one.is_dir()}


def _named_label(name: str, beside: Collection[str]) -> bool:
    if name.lower() in LABEL_WORDS:
        return True
    match = _SUFFIX.match(name)
    return match is not None and match["case"].lower() in beside


def label_maps(folder: Path) -> list[tuple[str, Path]]:
    """Case name and file of the label maps of a dataset's folder; empty where it is none of the layouts above.

    Raises:
        DataError: cases.csv cannot be read.
    """
    if (folder / LIST).is_file():
        return [(case.name, case.label) for case in read_case_list(folder / LIST, gaps=True) if case.label is not None]
    places = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    beside_images = [place for place in places if is_label_folder(place)]
    # a copy of the references alone has the layout's folder of labels and no images
    named = beside_images or [place for place in places if place.name.lower() in PARTNERS]
    found = [(case_name(path), path) for place in named for path in _volumes(place)]
    if found:
        return found
    for place in places:
        maps = [path for path in _volumes(place) if path not in without_label_maps(_volumes(place))]
        if len(maps) > 1:
            raise DataError(f"{place}: {maps[0].name} and {maps[1].name} are both named as label maps; keep one.")
        found += [(place.name, path) for path in maps]
    return found


def _volumes(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_volume_file(path) and not is_temporary(path)]


def bare_name(name: str) -> str:
    """A case name without what people add for label maps and channels, in small letters.

    Example:
        >>> bare_name("Case_01_seg"), bare_name("case_01_0000")
        ('case_01', 'case_01')
    """
    found = name.lower()
    while True:
        shorter = re.sub(rf"([_.-](?:{_WORDS}|pred|prediction|\d{{4}}))$", "", found)
        if shorter == found or not shorter:
            return found
        found = shorter


def near_match(name: str, others: Iterable[str]) -> str | None:
    """The name among others that the same case may have there: equal but for suffixes, else the closest spelling."""
    listed = sorted(others)
    same = [other for other in listed if bare_name(other) == bare_name(name)]
    if len(same) == 1:
        return same[0]
    close = difflib.get_close_matches(name, listed, n=1, cutoff=0.8)
    return close[0] if close and not same else None
