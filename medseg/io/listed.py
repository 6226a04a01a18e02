"""Cases as a Decathlon's dataset.json lists them; of several files each is a channel, by the name that the entry or the file has.

{"image": "a.nii.gz", "label": ...}                          one file with all channels
{"image": ["a_ct.nii.gz", "a_pet.nii.gz"], "label": ...}     in the order of the files' names where all say one, else as listed
{"image": {"ct": "a.nii.gz", "pet": "b.nii.gz"}, "label": ...}, {"ct": "a.nii.gz", "pet": "b.nii.gz", "label": ...}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.documents import read_json
from medseg.errors import ConfigError, DataError, UnreadableFileError

from .channels import channel_called, check_order, shared_name, told_by_name
from .datalist import Case
from .declared import DESCRIPTION, channel_names
from .volume import case_name


def listed_case(path: Path, entry: object, channels: Mapping[int, str], *, labelled: bool) -> Case:
    """One entry of "training" or "test".

    Args:
        path: the dataset.json, whose folder the files are given from.
        entry: as above; of a test case also the image alone.
        channels: channel -> name, as the file declares them.
        labelled: it needs a label map.

    Raises:
        DataError: no image or label, a channel that is not declared, or two files of one.
        UnreadableFileError: a file is missing.
    """
    if not labelled and isinstance(entry, str | list):
        entry = {"image": entry}
    if not isinstance(entry, dict) or (labelled and not entry.get("label")):
        raise DataError(f"{path}: the entry {entry!r} needs {'image and label' if labelled else 'an image'}.")
    label = _existing(path, entry["label"]) if entry.get("label") else None
    image = entry.get("image") or {key: one for key, one in entry.items() if key not in ("image", "label")}
    if not image:
        raise DataError(f"{path}: the entry {entry!r} needs {'image and label' if labelled else 'an image'}.")
    if isinstance(image, dict):
        order = _by_key(path, image, channels)
    elif isinstance(image, list) and len(image) > 1:
        order = _in_order(path, [_existing(path, one) for one in image], channels)
    else:
        file = _existing(path, image[0] if isinstance(image, list) else image)
        return Case(case_name(file), (file,), label, subject_of(case_name(file)))
    files = tuple(order.values())
    name = shared_name(files, channels)
    missing = tuple(channel for channel in channels if channel not in order)
    return Case(name, files, label, subject_of(name), missing=missing)


def listed_cases(folder: Path) -> tuple[list[Case], dict[int, str]] | None:
    """All cases that a Decathlon's dataset.json lists, and the channels it declares; None where each is one file.

    Raises:
        DataError, UnreadableFileError: as `listed_case`.
    """
    path = folder / DESCRIPTION
    try:
        said = read_json(path) if path.is_file() else None
    except ConfigError:
        return None  # a folder of images may hold a file of that name
    listed = [said.get(part) for part in ("training", "test")] if isinstance(said, dict) else [None]
    if not isinstance(listed[0], list) or not any(_several(one) for part in listed for one in part or []):
        return None
    assert isinstance(said, dict)  # or there were no lists in it
    channels = channel_names(path, said)
    training, test = listed[0], listed[1] if isinstance(listed[1], list) else []
    cases = [listed_case(path, one, channels, labelled=True) for one in training]
    return [*cases, *(listed_case(path, one, channels, labelled=False) for one in test)], channels


def subject_of(name: str) -> str | None:
    """The subject in a BIDS-like name ("sub-07_ses-2_T1w" -> "07"), or None."""
    match = re.match(r"sub-([A-Za-z0-9]+)(?:_|$)", name)
    return match[1] if match else None


def _several(entry: object) -> bool:
    image = entry.get("image") if isinstance(entry, dict) else entry
    return (
        isinstance(image, dict)
        or (isinstance(image, list) and len(image) > 1)
        or (isinstance(entry, dict) and not image)
    )


def _by_key(path: Path, image: Mapping[str, Any], channels: Mapping[int, str]) -> dict[int, Path]:
    order: dict[int, Path] = {}
    for key, one in image.items():
        channel = (
            int(key)
            if re.fullmatch(r"\d+", key) and int(key) in channels
            else channel_called(key, channels, whose=str(path))
        )
        if channel in order:
            raise DataError(f"{path}: the entry {dict(image)!r} gives channel {channels[channel]!r} twice; keep one.")
        order[channel] = _existing(path, one)
    order = dict(sorted(order.items()))
    check_order(shared_name(tuple(order.values()), channels), order, channels)
    return order


def _in_order(path: Path, files: list[Path], channels: Mapping[int, str]) -> dict[int, Path]:
    told = told_by_name(files, channels)
    if told is not None:
        return told
    if len(files) != len(channels):
        raise DataError(
            f"{path}: lists {len(files)} images for one case, such as {files[0].name}, and declares {len(channels)} channels; list "
            "one per channel, or name each by its channel."
        )
    order = dict(enumerate(files))
    check_order(shared_name(files, channels), order, channels)
    return order


def _existing(path: Path, listed: object) -> Path:
    if not isinstance(listed, str):
        raise DataError(f"{path}: the entry has {listed!r} for a file, expected one file.")
    file = path.parent / listed
    if not file.exists():
        raise UnreadableFileError(f"{file}: no such file, though {path} lists it; add the file or remove the entry.")
    return file
