"""Medical Segmentation Decathlon: dataset.json lists the files, channels lie in a fourth axis.

dataset.json  imagesTr/NAME.nii.gz  labelsTr/NAME.nii.gz  imagesTs/NAME.nii.gz  [splits_final.json]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.errors import DataError, UnreadableFileError
from medseg.io.datalist import Case
from medseg.io.volume import case_name

from .dataset import Dataset
from .described import described_dataset
from .description import read_object, subject_of


def matches(folder: Path) -> bool:
    """Whether dataset.json lists training files."""
    path = folder / "dataset.json"
    if not path.is_file():
        return False
    return isinstance(read_object(path).get("training"), list)


def load(folder: Path) -> Dataset:
    """Find the cases. Raises DataError or UnreadableFileError naming dataset.json or the missing file."""
    path = folder / "dataset.json"
    description = read_object(path)
    training, test = description.get("training"), description.get("test", [])
    if not isinstance(training, list) or not isinstance(test, list):
        raise DataError(f'{path}: expected lists under "training" and "test".')
    cases = sorted((_case(path, entry, labelled=True) for entry in training), key=lambda case: case.name)
    test_cases = sorted((_case(path, entry, labelled=False) for entry in test), key=lambda case: case.name)
    return described_dataset(folder, description, cases, test_cases, name=folder.name)


def _case(path: Path, entry: Any, *, labelled: bool) -> Case:
    if isinstance(entry, str) and not labelled:
        entry = {"image": entry}
    if not isinstance(entry, dict) or not entry.get("image") or (labelled and not entry.get("label")):
        raise DataError(f"{path}: the entry {entry!r} needs {'image and label' if labelled else 'an image'}.")
    listed = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    images = tuple(_existing(path, str(one)) for one in listed)
    label = _existing(path, str(entry["label"])) if entry.get("label") else None
    name = case_name(images[0])
    return Case(name=name, images=images, label=label, subject=subject_of(name))


def _existing(path: Path, listed: str) -> Path:
    file = path.parent / listed
    if not file.exists():
        raise UnreadableFileError(f"{file}: no such file, though {path} lists it; add the file or remove the entry.")
    return file
