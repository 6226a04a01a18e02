"""The plain layout: pairs of equal names in two folders.

    images/NAME.nii.gz  labels/NAME.nii.gz  [test_images/NAME.nii.gz  test_labels/NAME.nii.gz]  [dataset.json]  [splits_final.json]

Several channels: images/NAME/*.nii.gz, one file per channel, matched by the channels' names where the files' names say them,
else in alphabetical order (or one 4D file); or images/NAME_CHANNEL.nii.gz, by the channels' names in dataset.json.
A folder or file of DICOM is an image too. dataset.json may say "name", "labels",
"channels", "licence", "reference"; without it the label values are collected from the label maps.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from medseg.errors import DataError, UnreadableFileError
from medseg.io.channels import group_by_name, one_of_each, order_by_name
from medseg.io.datalist import Case
from medseg.io.declared import channel_names
from medseg.io.file_names import readable_name
from medseg.io.formats.dicom import is_dicom_file
from medseg.io.layouts import near_match
from medseg.io.listed import subject_of
from medseg.io.volume import case_name, is_volume_file

from .dataset import Dataset
from .described import described_dataset
from .description import read_object

log = logging.getLogger(__name__)


def matches(folder: Path) -> bool:
    """Whether the folder has images/ and labels/."""
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def load(folder: Path) -> Dataset:
    """Find the cases. Raises DataError or UnreadableFileError naming the file or folder."""
    path = folder / "dataset.json"
    description = read_object(path) if path.is_file() else {}
    channels = channel_names(path, description)
    cases = _pairs(folder / "images", folder / "labels", channels, labelled=True)
    if not cases:
        raise DataError(
            f"{folder / 'images'}: holds no volume; put images there and label maps of the same names in labels/."
        )
    test_cases = _pairs(folder / "test_images", folder / "test_labels", channels, labelled=False)
    name = folder.resolve().name
    return described_dataset(folder, description, cases, test_cases, name=name, channels=channels, collect=True)


def _pairs(images: Path, labels: Path, channels: Mapping[int, str], *, labelled: bool) -> list[Case]:
    maps = {
        case_name(path): path for path in (sorted(labels.iterdir()) if labels.is_dir() else []) if is_volume_file(path)
    }
    by_name: dict[str, tuple[Path, ...]] = {}
    lacking: dict[str, tuple[int, ...]] = {}
    flat = _flat_cases(images, maps, channels)
    taken = {path for order in flat.values() for path in order.values()}
    for name, order in flat.items():
        by_name[name] = tuple(order.values())
        lacking[name] = tuple(channel for channel in channels if channel not in order)
    for path in sorted(images.iterdir()) if images.is_dir() else []:
        if path.name.startswith(".") or path in taken:
            continue
        files = _images_of(path)
        if not files and path.is_dir():
            log.warning("%s: left out, it holds no volume.", path)
        if files:
            name = readable_name(path.name) if path.is_dir() else case_name(path)
            if name in by_name:
                raise DataError(f"{path}: {by_name[name][0]} has the same case name {name!r}; rename one of them.")
            told = order_by_name(files, channels) if len(channels) > 1 and len(files) > 1 else None
            by_name[name] = tuple(told.values()) if told else files
            lacking[name] = tuple(channel for channel in channels if channel not in told) if told else ()
    missing = [name for name in by_name if name not in maps]
    if labelled and missing:
        near = near_match(missing[0], [name for name in maps if name not in by_name])
        raise UnreadableFileError(
            f"{labels / missing[0]}.nii.gz: no such label map, but {by_name[missing[0]][0]} needs it"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
            + (
                f"; {maps[near].name} looks like it: rename one of them."
                if near
                else "; add it, or move the image out."
            )
        )
    unused = sorted(set(maps) - set(by_name))
    if unused:
        log.warning(
            "%s: %d label maps have no image of the same name, such as %s.", labels, len(unused), maps[unused[0]].name
        )
    return [
        Case(name, files, maps.get(name), subject_of(name), missing=lacking[name])
        for name, files in sorted(by_name.items())
    ]


def _flat_cases(images: Path, maps: Collection[str], channels: Mapping[int, str]) -> dict[str, dict[int, Path]]:
    """Case -> channel -> file of those whose channels lie beside each other, each named NAME_CHANNEL."""
    if len(channels) < 2 or not images.is_dir():
        return {}
    single = [
        path
        for path in sorted(images.iterdir())
        if not path.name.startswith(".")
        and len(_images_of(path)) == 1
        and (readable_name(path.name) if path.is_dir() else case_name(path)) not in maps
    ]
    groups = group_by_name(single, channels)
    return {
        name: one_of_each(members, channels)
        for (_, name), members in groups.items()
        if name in maps or len({channel for channel, _ in members}) > 1
    }


def _images_of(path: Path) -> tuple[Path, ...]:
    """The volumes at a place of images/: a file, a DICOM series, or one of these per channel in a folder."""
    if not path.is_dir():
        return (path,) if is_volume_file(path) or is_dicom_file(path) else ()
    inside = sorted(one for one in path.iterdir() if not one.name.startswith("."))
    files = tuple(one for one in inside if is_volume_file(one))
    if files:
        return files
    if any(one.is_file() and is_dicom_file(one) for one in inside):
        return (path,)
    return tuple(one for one in inside if one.is_dir() and any(is_dicom_file(file) for file in one.iterdir()))
