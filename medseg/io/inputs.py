"""From what a person names (files, folders, patterns, lists, DICOM folders) to cases."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import DataError, MedsegError, UnreadableFileError
from medseg.types import FilePath

from .atomic import is_temporary
from .channels import check_order, group_by_name, one_of_each, order_by_name
from .datalist import Case, check_unique, named_columns, read_case_list
from .declared import DESCRIPTION, as_declared, in_wanted_order
from .file_names import readable_name, same_file
from .formats.dicom import holds_image, is_dicom_file
from .geometry import check_same_grid
from .layouts import LIST, PARTNERS, is_label_folder, without_label_maps
from .listed import listed_cases
from .own_outputs import outputs_in
from .volume import READABLE, case_name, is_volume_file, read_header

log = logging.getLogger(__name__)

IMAGE_WORDS = ("image", "img", "scan", "volume", "ct", "mr", "mri")
_CHANNEL = re.compile(r"(?P<name>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Wanted:
    """What a network wants of a case: its channels, by names where they have any, and whether it does with some of them."""

    count: int
    names: Mapping[int, str]
    gaps: bool

    @classmethod
    def of(cls, channels: int | Mapping[int, str], gaps: bool) -> Wanted:
        count = channels if isinstance(channels, int) else len(channels)
        return cls(count, {} if isinstance(channels, int) else channels, gaps)


def find_inputs(inputs: Sequence[FilePath], *, channels: int | Mapping[int, str] = 1, gaps: bool = False) -> list[Case]:
    """The cases that the words of a command line mean, sorted by name within each word.

    A word is a volume file, a DICOM file, a csv list, a pattern with * or ?, or a folder: every volume in it and below,
    and every folder with DICOM images as one series. With several channels, one case is made of files NAME_0000, NAME_0001, ...,
    of files or DICOM folders that are named alike but for the channels' names (NAME_ct and NAME_pet, NAME/CT and NAME/PET), or of
    the files of one sub-folder, in the order of the channels' names where theirs say them; a file on its own must hold all channels.

    Left out with a warning: what an earlier run of ours wrote there, and volumes on the grid of the DICOM series beside them.

    Args:
        inputs: the words.
        channels: images per case that the network wants, or their names.
        gaps: take cases that lack some of several channels.

    Raises:
        UnreadableFileError: nothing has that name, or a pattern matches nothing.
        DataError: a folder without volumes, a file that is no volume, two cases of one name, channels in an order that the
            names of their files contradict, or missing ones.
    """
    if not inputs:
        raise DataError("no input was given; name a volume file, a folder, a pattern, a csv list or a DICOM folder.")
    wanted = Wanted.of(channels, gaps)
    found = [(Path(word), case) for word in inputs for case in _cases_of(word, wanted)]
    cases = [case for _, case in _united(found, wanted)]
    check_unique(cases, whose="the inputs")
    for case in cases:
        present = [channel for channel in range(wanted.count) if channel not in case.missing]
        if wanted.names and len(present) == len(case.images):
            check_order(case.name, dict(zip(present, case.images, strict=True)), wanted.names)
    return cases


def _cases_of(word: FilePath, wanted: Wanted) -> list[Case]:
    path = Path(word)
    if path.is_dir():
        return _cases_in(path, wanted)
    if path.exists():
        return (
            _cases_listed(path, wanted) if path.suffix.lower() == ".csv" else [as_declared(_single(path), wanted.names)]
        )
    if "://" in str(word):
        raise UnreadableFileError(f"{word}: is an address, and nothing is fetched; download it and name the file.")
    if any(mark in str(word) for mark in "*?["):
        found = [Path(name) for name in sorted(glob.glob(str(word), recursive=True))]
        found = [one for one in found if one.is_dir() or is_volume_file(one) or is_dicom_file(one)]
        if not found:
            raise UnreadableFileError(f"{word}: the pattern matches no volume; check it, and put it in quotes.")
        ours = {one for place in {one.parent for one in found} for one in outputs_in(place)}
        _say_left_out(word, [one for one in found if one in ours], OURS)
        files = [one for one in found if one.is_file() and one not in ours]
        folders = [one for one in found if one.is_dir() and one not in ours]
        listed = [(case.images[0].parent, case) for case in _grouped(files, wanted)]
        return [as_declared(case, wanted.names) for _, case in _united(listed, wanted)] + [
            case for one in folders for case in _cases_in(one, wanted)
        ]
    raise UnreadableFileError(f"{path}: no such file or folder; check the path.")


def _cases_listed(path: Path, wanted: Wanted) -> list[Case]:
    cases = read_case_list(path, gaps=wanted.gaps, channels=wanted.names)
    return cases if named_columns(path) else [as_declared(case, wanted.names, listed_in=path) for case in cases]


def _of_a_dataset(folder: Path, cases: list[Case], declared: Mapping[int, str], wanted: Wanted) -> list[Case]:
    """The cases that the dataset.json of a folder lists by channels, as the network wants them."""
    path = folder / DESCRIPTION
    found = [in_wanted_order(replace(case, label=None), declared, wanted.names, path=path) for case in cases]
    lacking = next((case for case in found if case.missing), None)
    if lacking and wanted.names and not wanted.gaps:
        raise DataError(
            f"case {lacking.name!r}: {path} lists no file for channel {wanted.names[lacking.missing[0]]}; add it."
        )
    return found


def _single(path: Path) -> Case:
    if not (is_volume_file(path) or is_dicom_file(path)):
        raise DataError(f"{path}: is no volume; readable are {', '.join(READABLE)}, DICOM and csv lists.")
    return Case(case_name(path), (path,))


OURS = "was written by an earlier run, as the record beside it says"
BESIDE = "lies on the grid of the DICOM series beside it, as its mask or copy does"


def _cases_in(folder: Path, wanted: Wanted) -> list[Case]:
    """Cases of a folder and its sub-folders; a sub-folder's cases carry its name when one name alone would repeat."""
    if (folder / LIST).is_file():
        return [replace(case, label=None) for case in _cases_listed(folder / LIST, wanted)]
    if (described := listed_cases(folder)) is not None:
        return _of_a_dataset(folder, *described, wanted)
    found: list[tuple[Path, Case]] = []
    ours: set[Path] = set()
    met: list[Path] = []
    left_out: list[Path] = []
    for place in [folder, *sorted(one for one in folder.rglob("*") if one.is_dir() and not _hidden(one, folder))]:
        if place in ours or place.parent in ours:
            ours.add(place)
            continue
        ours |= outputs_in(place)
        files = sorted(one for one in place.iterdir() if one.is_file() and not is_temporary(one))
        met += [one for one in files if one in ours and is_volume_file(one)]
        files = [one for one in files if one not in ours]
        maps = _label_maps(place, files, inside=place != folder)
        left_out += sorted(maps)
        kept = [one for one in files if one not in maps]
        found += [(place, case) for case in _cases_at(place, kept, wanted, folder)]
    found = _united(found, wanted, root=folder)
    _say_left_out(folder, met, OURS)
    if left_out:
        several = (
            "label maps lie beside the images and are"
            if len(left_out) > 1
            else "label map lies beside the images and is"
        )
        log.warning(
            "%s: %d %s left out, such as %s; name a file itself to take it.",
            folder,
            len(left_out),
            several,
            left_out[0],
        )
    if not found:
        why = "only what earlier runs of medseg wrote" if met or ours else "no volume"
        raise DataError(f"{folder}: holds {why}; readable are {', '.join(READABLE)} and DICOM series.")
    found = [(place, as_declared(case, wanted.names)) for place, case in found]
    names = [same_file(case.name) for _, case in found]
    return [case if names.count(same_file(case.name)) == 1 else _longer(case, place, folder) for place, case in found]


def _label_maps(place: Path, files: list[Path], *, inside: bool) -> set[Path]:
    """The volumes among a folder's files that are label maps of the images beside them."""
    volumes = [one for one in files if is_volume_file(one)]
    if inside and volumes and is_label_folder(place):
        return set(volumes)
    return set(volumes) - set(without_label_maps(volumes))


def _cases_at(place: Path, files: list[Path], wanted: Wanted, root: Path) -> list[Case]:
    """The cases of one folder's own files."""
    series = [one for one in files if is_dicom_file(one)]
    volumes = [one for one in files if is_volume_file(one) and one not in set(series)]
    cases = []
    if series and (not volumes or holds_image(series)):
        cases = [Case(readable_name(place.resolve().name), (place,))]
        beside = [one for one in volumes if _on_grid_of(place, one)]
        _say_left_out(place, beside, BESIDE)
        volumes = [one for one in volumes if one not in beside]
    if (
        wanted.count == len(volumes) == 1
        and not cases
        and place != root
        and case_name(volumes[0]).lower() in IMAGE_WORDS
    ):
        return [Case(readable_name(place.name), tuple(volumes))]  # one folder per patient
    one_case = _channels_of(place, volumes, wanted, root) if volumes and wanted.count > 1 else None
    if one_case is not None:
        return [*cases, one_case]
    rest = _grouped(volumes, wanted)
    if (
        place != root
        and len(volumes) == len(rest) == wanted.count == 1
        and case_name(volumes[0]).lower() in IMAGE_WORDS
    ):
        rest = [Case(readable_name(place.name), tuple(volumes))]  # one folder per patient
    return [*cases, *rest]


def _on_grid_of(series: Path, volume: Path) -> bool:
    try:
        check_same_grid(read_header(series, allow_shear=True), read_header(volume, allow_shear=True), whose="")
    except MedsegError:
        return False
    return True


def _say_left_out(word: FilePath, files: Sequence[Path], why: str) -> None:
    if files:
        more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
        log.warning("%s: left out %s%s, which %s; name the file itself to take it.", word, files[0].name, more, why)


def _channels_of(place: Path, files: list[Path], wanted: Wanted, root: Path) -> Case | None:
    """The files of a folder as the channels of one case; None when they are cases of their own."""
    if any(_CHANNEL.match(case_name(one)) for one in files):
        return None
    name = readable_name(place.resolve().name)
    try:
        order = order_by_name(files, wanted.names, others=True)
    except DataError:
        if place == root or len(files) > wanted.count:
            return None
        raise
    if order is None or (place == root and len(order) < wanted.count):
        whole = place != root and len(files) == wanted.count
        return Case(name, tuple(files)) if whole else None
    missing = tuple(channel for channel in range(wanted.count) if channel not in order)
    if place == root or place.name.lower() in PARTNERS.values():
        told = {key[1] for key in group_by_name(list(order.values()), wanted.names)}
        if told != {name}:
            return None  # a flat folder: the names of the files say the cases
    if missing and not wanted.gaps:
        if len(files) == 1 or len(order) < len(files):
            return None  # one file may hold all channels; what is wrong with the others is said when they are read
        raise DataError(
            f"case {name!r}: has no file for channel {wanted.names[missing[0]]}, only {', '.join(one.name for one in files)}; add it."
        )
    if missing and len(files) == 1 and _channel_count(files[0]) == wanted.count:
        return None
    rest = [one for one in files if one not in set(order.values())]
    _say_left_out(place, rest, "is named like none of the network's channels")
    return Case(name, tuple(order.values()), missing=missing)


def _united(found: list[tuple[Path, Case]], wanted: Wanted, root: Path | None = None) -> list[tuple[Path, Case]]:
    """Place and case of each, where files and DICOM folders that are named as channels of one case are one."""
    single = {
        case.images[0]: case
        for place, case in found
        if len(case.images) == 1
        and not case.missing
        and place.suffix.lower() != ".csv"
        and not (place / LIST).is_file()
    }
    groups = group_by_name(list(single), wanted.names) if wanted.count > 1 else {}
    several = any(len({channel for channel, _ in members}) > 1 for members in groups.values())
    told = {path for members in groups.values() for _, path in members}
    untold: dict[Path, list[Path]] = {}
    for path in single:
        if path not in told:
            untold.setdefault(path.parent, []).append(path)
    joined: dict[Path, tuple[Path, Case] | None] = {}
    for (place, name), members in groups.items():
        alone = len(members) == 1
        if (alone and _channel_count(members[0][1]) == wanted.count) or not (several or wanted.gaps):
            continue
        order = one_of_each(members, wanted.names)
        missing = tuple(channel for channel in range(wanted.count) if channel not in order)
        if missing and not wanted.gaps:
            raise DataError(
                f"case {name!r}: has no file for channel {wanted.names[missing[0]]}, only "
                f"{', '.join(path.name for path in order.values())}; add it, or name its file {name} and the channel."
            )
        own = name == readable_name(place.resolve().name) and place != root
        joined |= dict.fromkeys(order.values())
        joined[min(order.values())] = (
            place.parent if own else place,
            Case(name, tuple(order.values()), missing=missing),
        )
        begins = re.compile(rf"{re.escape(name)}[ _.-]", re.IGNORECASE)
        rest = [
            one for one in untold.get(place, ()) if begins.match(case_name(one)) and _channel_count(one) != wanted.count
        ]
        _say_left_out(place, rest, "is named like none of the network's channels")
        joined |= dict.fromkeys(rest)
    kept = [(place, case, joined.get(case.images[0], (place, case))) for place, case in found]
    return [entry for _, case, entry in kept if entry is not None]


def _channel_count(path: Path) -> int:
    try:
        return read_header(path, allow_shear=True).channels
    except MedsegError:
        return 1


def _longer(case: Case, place: Path, root: Path) -> Case:
    above = place.parent if case.images == (place,) else place
    parts = above.relative_to(root).parts if root in above.parents else ()
    return replace(case, name=readable_name("_".join([*parts, case.name])))


def _grouped(files: list[Path], wanted: Wanted) -> list[Case]:
    """One case per file; with nnU-Net's names (NAME_0000, ...) one per NAME."""
    numbered: dict[str, dict[int, Path]] = {}
    cases = []
    for path in files:
        match = _CHANNEL.match(case_name(path))
        if match and wanted.count > 1:
            parts = numbered.setdefault(match["name"], {})
            other = parts.setdefault(int(match["channel"]), path)
            if other != path:
                raise DataError(
                    f"{path}: is channel {match['channel']} of {match['name']!r}, as {other.name} is; keep one."
                )
        elif match and all(case_name(one).endswith("_0000") for one in files):
            cases.append(Case(match["name"], (path,)))  # nnU-Net's names for one channel; the label map is NAME
        else:
            cases.append(Case(case_name(path), (path,)))
    for name, parts in numbered.items():
        missing = tuple(channel for channel in range(wanted.count) if channel not in parts)
        if not set(parts) <= set(range(wanted.count)) or (missing and not wanted.gaps):
            raise DataError(
                f"case {name!r}: has the channel files {sorted(parts)} ({parts[min(parts)]}, ...), the network wants {wanted.count} "
                f"(0 to {wanted.count - 1}); add or rename files."
            )
        cases.append(Case(name, tuple(parts[index] for index in sorted(parts)), missing=missing))
    return sorted(cases, key=lambda case: case.name)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
