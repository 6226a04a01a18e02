"""A dataset as a csv list: FOLDER/cases.csv with the columns image, label and optionally name, subject, labels_present;
several channels as image_0, image_1, ..., or by their names, image_ct, image_pet, ...

dataset.json beside it may say "name", "labels", "channels", "licence", "reference"; cases without a label are test cases.
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import DataError, UnreadableFileError
from medseg.io.datalist import named_columns, read_case_list
from medseg.io.declared import channel_names

from .dataset import Dataset
from .described import described_dataset
from .description import read_object

LIST = "cases.csv"


def matches(folder: Path) -> bool:
    """Whether there is a cases.csv."""
    return (folder / LIST).is_file()


def load(folder: Path) -> Dataset:
    """Read the list. Raises DataError or UnreadableFileError naming the list, the line or the file."""
    path = folder / "dataset.json"
    description = read_object(path) if path.is_file() else {}
    channels = channel_names(path, description)
    named = named_columns(folder / LIST)
    if named and not {"channel_names", "modality", "channels"} & description.keys():
        channels = dict(enumerate(named))
    listed = read_case_list(folder / LIST, gaps=True, channels=channels)
    for case in listed:
        for file in (*case.images, *([case.label] if case.label else [])):
            if not file.exists():
                raise UnreadableFileError(f"{file}: no such file, though {folder / LIST} lists it; correct the path.")
    cases = sorted((case for case in listed if case.label), key=lambda case: case.name)
    if not cases:
        raise DataError(f"{folder / LIST}: no line has a label map; add the column 'label'.")
    test_cases = sorted((case for case in listed if not case.label), key=lambda case: case.name)
    name = folder.resolve().name
    return described_dataset(folder, description, cases, test_cases, name=name, channels=channels, collect=True)
