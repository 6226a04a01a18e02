"""From what a person names (files, folders, patterns, lists, DICOM folders) to cases."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import DataError, UnreadableFileError
from medseg.types import FilePath

from .atomic import is_temporary
from .datalist import Case, check_unique, read_case_list
from .file_names import readable_name, same_file
from .formats.dicom import is_dicom_file
from .layouts import LIST, is_label_folder, without_label_maps
from .volume import READABLE, case_name, is_volume_file

log = logging.getLogger(__name__)

IMAGE_WORDS = ("image", "img", "scan", "volume", "ct", "mr", "mri")
_CHANNEL = re.compile(r"(?P<name>.+)_(?P<channel>\d{4})$")


def find_inputs(inputs: Sequence[FilePath], *, channels: int = 1) -> list[Case]:
    """The cases that the words of a command line mean, sorted by name within each word.

    A word is a volume file, a DICOM file, a csv list, a pattern with * or ?, or a folder: every volume in it and below,
    and every folder with DICOM images as one series. With several channels, files NAME_0000, NAME_0001, ... or the
    files of one sub-folder make one case; a file on its own must hold all channels.

    Args:
        inputs: the words.
        channels: images per case that the network wants.

    Raises:
        UnreadableFileError: nothing has that name, or a pattern matches nothing.
        DataError: a folder without volumes, a file that is no volume, or two cases of one name.
    """
    if not inputs:
        raise DataError("no input was given; name a volume file, a folder, a pattern, a csv list or a DICOM folder.")
    cases = [case for word in inputs for case in _cases_of(word, channels)]
    check_unique(cases, whose="the inputs")
    return cases


def _cases_of(word: FilePath, channels: int) -> list[Case]:
    path = Path(word)
    if path.is_dir():
        return _cases_in(path, channels)
    if path.exists():
        return [_single(path)] if path.suffix.lower() != ".csv" else read_case_list(path)
    if any(mark in str(word) for mark in "*?["):
        found = [Path(name) for name in sorted(glob.glob(str(word), recursive=True))]
        found = [one for one in found if one.is_dir() or is_volume_file(one) or is_dicom_file(one)]
        if not found:
            raise UnreadableFileError(f"{word}: the pattern matches no volume; check it, and put it in quotes.")
        files = [one for one in found if one.is_file()]
        return _grouped(files, channels) + [case for one in found if one.is_dir() for case in _cases_in(one, channels)]
    raise UnreadableFileError(f"{path}: no such file or folder; check the path.")


def _single(path: Path) -> Case:
    if not (is_volume_file(path) or is_dicom_file(path)):
        raise DataError(f"{path}: is no volume; readable are {', '.join(READABLE)}, .dcm, DICOM folders and csv lists.")
    return Case(case_name(path), (path,))


def _cases_in(folder: Path, channels: int) -> list[Case]:
    """Cases of a folder and its sub-folders; a sub-folder's cases carry its name when one name alone would repeat."""
    if (folder / LIST).is_file():
        return [replace(case, label=None) for case in read_case_list(folder / LIST)]
    found: list[tuple[Path, Case]] = []
    left_out = 0
    below = sorted(one for one in folder.rglob("*") if one.is_dir() and not _hidden(one, folder))
    for place in [folder, *below]:
        files = sorted(one for one in place.iterdir() if one.is_file() and not is_temporary(one))
        volumes = [one for one in files if is_volume_file(one)]
        if volumes and place != folder and is_label_folder(place):
            left_out += len(volumes)
            continue
        if volumes:
            images = without_label_maps(volumes)
            left_out += len(volumes) - len(images)
            volumes = images
            cases = _grouped(volumes, channels)
            if (
                place != folder
                and len(volumes) == len(cases) == channels == 1
                and case_name(volumes[0]).lower() in IMAGE_WORDS
            ):
                cases = [Case(readable_name(place.name), tuple(volumes))]  # one folder per patient
            if channels > 1 and place != folder and len(volumes) == len(cases) == channels:
                cases = [Case(readable_name(place.name), tuple(volumes))]
            found += [(place, case) for case in cases]
        elif any(is_dicom_file(one) for one in files):
            found.append((place, Case(readable_name(place.resolve().name), (place,))))
    if not found:
        raise DataError(f"{folder}: holds no volume; readable are {', '.join(READABLE)} and DICOM series.")
    if left_out:
        log.info("%s: %d label maps lie beside the images and are left out", folder, left_out)
    names = [same_file(case.name) for _, case in found]
    return [case if names.count(same_file(case.name)) == 1 else _longer(case, place, folder) for place, case in found]


def _longer(case: Case, place: Path, root: Path) -> Case:
    above = place.parent if case.images == (place,) else place
    parts = above.relative_to(root).parts if root in above.parents else ()
    return replace(case, name=readable_name("_".join([*parts, case.name])))


def _grouped(files: list[Path], channels: int) -> list[Case]:
    """One case per file; with nnU-Net's names (NAME_0000, ...) one per NAME."""
    numbered: dict[str, dict[int, Path]] = {}
    cases = []
    for path in files:
        match = _CHANNEL.match(case_name(path))
        if match and channels > 1:
            numbered.setdefault(match["name"], {})[int(match["channel"])] = path
        elif match and all(case_name(one).endswith("_0000") for one in files):
            cases.append(Case(match["name"], (path,)))  # nnU-Net's names for one channel; the label map is NAME
        else:
            cases.append(Case(case_name(path), (path,)))
    for name, parts in numbered.items():
        if sorted(parts) != list(range(channels)):
            raise DataError(
                f"case {name!r}: has the channel files {sorted(parts)} ({parts[min(parts)]}, ...), the network wants {channels} "
                f"(0 to {channels - 1}); add or rename files."
            )
        cases.append(Case(name, tuple(parts[index] for index in range(channels))))
    return sorted(cases, key=lambda case: case.name)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
