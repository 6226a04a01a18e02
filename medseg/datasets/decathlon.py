"""Medical Segmentation Decathlon: dataset.json lists the files; channels lie in a fourth axis, or in a file each.

dataset.json  imagesTr/NAME.nii.gz  labelsTr/NAME.nii.gz  imagesTs/NAME.nii.gz  [splits_final.json]
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import DataError
from medseg.io.declared import channel_names
from medseg.io.listed import listed_case

from .dataset import Dataset
from .described import described_dataset
from .description import read_object


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
    channels = channel_names(path, description)
    cases = sorted((listed_case(path, one, channels, labelled=True) for one in training), key=lambda case: case.name)
    test_cases = sorted((listed_case(path, one, channels, labelled=False) for one in test), key=lambda case: case.name)
    return described_dataset(folder, description, cases, test_cases, name=folder.name, channels=channels)
