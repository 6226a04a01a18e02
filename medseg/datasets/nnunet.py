"""nnU-Net v2's raw layout: one file per channel, numbered behind the case name.

dataset.json  imagesTr/NAME_0000.nii.gz  labelsTr/NAME.nii.gz  imagesTs/NAME_0000.nii.gz  [splits_final.json]

Files that bear a channel's name instead of its number (NAME_ct.nii.gz) are taken too; what bears neither is left out by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from medseg.errors import DataError, UnreadableFileError
from medseg.io.channels import group_by_name, one_of_each
from medseg.io.datalist import Case
from medseg.io.declared import channel_names
from medseg.io.listed import subject_of

from .dataset import Dataset
from .described import described_dataset
from .description import read_object

log = logging.getLogger(__name__)


def matches(folder: Path) -> bool:
    """Whether dataset.json has nnU-Net's keys."""
    path = folder / "dataset.json"
    if not path.is_file():
        return False
    description = read_object(path)
    return "channel_names" in description and (folder / "imagesTr").is_dir()


def load(folder: Path) -> Dataset:
    """Find the cases. Raises DataError or UnreadableFileError naming the file."""
    path = folder / "dataset.json"
    description = read_object(path)
    ending = str(description.get("file_ending", ".nii.gz"))
    channels = channel_names(path, description)
    found = {
        labels: [
            _case(folder, name, files, len(channels), labels, ending)
            for name, files in sorted(_channel_files(folder / images, ending, channels).items())
        ]
        for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))
    }
    return described_dataset(
        folder, description, found["labelsTr"], found["labelsTs"], name=folder.name, channels=channels
    )


def _channel_files(folder: Path, ending: str, channels: Mapping[int, str]) -> dict[str, dict[int, Path]]:
    pattern = re.compile(rf"(?P<name>.+)_(?P<channel>\d{{4}}){re.escape(ending)}$")
    found: dict[str, dict[int, Path]] = {}
    others = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.match(path.name)
        if path.name.startswith("."):
            continue
        if match:
            found.setdefault(match["name"], {})[int(match["channel"])] = path
        elif path.name.endswith(ending):
            others.append(path)
    named = group_by_name(others, channels) if len(channels) > 1 else {}
    for (_, name), members in named.items():
        if name in found:
            raise DataError(
                f"{members[0][1]}: {min(found[name].values()).name} is of the case {name!r} too; keep one naming."
            )
        found[name] = one_of_each(members, channels)
    told = {path for members in named.values() for _, path in members}
    if left := [path for path in others if path not in told]:
        log.warning(
            "%s: left out %s%s: named neither NAME_0000%s nor by a channel's name; rename it.",
            folder, left[0].name, f" (and {len(left) - 1} more)" if len(left) > 1 else "", ending,
        )  # fmt: skip
    return found


def _case(folder: Path, name: str, files: dict[int, Path], channels: int, labels: str, ending: str) -> Case:
    missing = tuple(channel for channel in range(channels) if channel not in files)
    if not set(files) <= set(range(channels)) or len(missing) == channels:
        raise DataError(
            f"case {name!r} in {folder}: has channel files {sorted(files)}, dataset.json declares {channels} channels "
            f"(0 to {channels - 1}); correct the files' names or channel_names."
        )
    label = folder / labels / f"{name}{ending}"
    if labels == "labelsTr" and not label.is_file():
        raise UnreadableFileError(
            f"{label}: no such file, but {files[0]} needs its label map; add it or remove the image."
        )
    return Case(
        name=name,
        images=tuple(files[channel] for channel in range(channels) if channel in files),
        label=label if label.is_file() else None,
        subject=subject_of(name),
        missing=missing,
    )
