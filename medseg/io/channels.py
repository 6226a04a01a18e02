"""Which file is which channel: by the names of the channels where the files' names say them, and never against them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.errors import DataError

from .file_names import readable_name, same_file

# words that mean one kind of image
_SAME = (
    {"t1", "t1w", "t1n"},
    {"t1c", "t1ce", "t1gd", "t1gad", "t1post", "t1km", "t1wce", "t1wgd", "cet1", "t1contrast"},
    {"t2", "t2w"},
    {"flair", "t2f", "t2flair", "fl"},
    {"pet", "pt", "suv"},
    {"ct", "cta", "computedtomography"},
    {"mr", "mri"},
    {"dwi", "dw"},
)
_MEANS = {word: min(group) for group in _SAME for word in group}
_BETWEEN = " _-."  # what stands between a case's name and a channel's
_LONGEST = 3  # words of a file name that may make one channel's name, as in `t1-gd` or `adc_map`


def order_by_name(
    files: Sequence[Path], channels: Mapping[int, str], *, others: bool = False
) -> dict[int, Path] | None:
    """Channel -> file, as the files' names tell; None when they tell nothing.

    Args:
        files: of one case.
        channels: channel -> name.
        others: leave out files that are named like no channel.

    Raises:
        DataError: some files are named like channels and others are not (unless `others`), or two like one.

    Example:
        >>> order_by_name([Path("ct.nii"), Path("pet.nii")], {0: "PET", 1: "CT"})
        {0: PosixPath('pet.nii'), 1: PosixPath('ct.nii')}
    """
    told = _told(files, channels)
    if not any(told.values()):
        return None
    names = ", ".join(f"{channel} {name}" for channel, name in channels.items())
    order: dict[int, Path] = {}
    for path, found in told.items():
        if others and not found:
            continue
        if len(found) != 1:
            what = "is named like no channel" if not found else "is named like several channels"
            raise DataError(f"{path}: {what} ({names}), other files of the case are named by them; rename it.")
        other = order.setdefault(found[0], path)
        if other != path:
            raise DataError(f"{path}: is channel {channels[found[0]]!r} by its name, and so is {other.name}; keep one.")
    return dict(sorted(order.items()))


def check_order(case: str, files: Mapping[int, Path], channels: Mapping[int, str]) -> None:
    """Refuse an order of files, however it was given, that their names contradict. Raises DataError naming both.

    Args:
        case: its name.
        files: channel -> file.
        channels: channel -> name.
    """
    if len(files) < 2:
        return
    told = _told(list(files.values()), channels)
    for channel, path in files.items():
        found = told[path]
        if len(found) == 1 and found[0] != channel:
            raise DataError(
                f"case {case!r}: {path} is given as channel {channel} ({channels.get(channel, '?')}), and is named like channel "
                f"{found[0]} ({channels[found[0]]}); correct the order, or rename the file."
            )


def told_by_name(files: Sequence[Path], channels: Mapping[int, str]) -> dict[int, Path] | None:
    """Channel -> file where the name of every file says one channel, each another; None where any says nothing or the same."""
    told = _told(files, channels)
    order = {found[0]: path for path, found in told.items() if len(found) == 1}
    return dict(sorted(order.items())) if len(order) == len(files) > 0 else None


def places_among(declared: Mapping[int, str], wanted: Mapping[int, str]) -> list[int | None] | None:
    """For each wanted channel its place among the declared ones, None in it where it is not declared.

    Names with nothing in common leave the order as it is. None in place of a list where some of the names are shared, stand at
    other places, and the rest are strangers: then nobody knows which is which.

    Example:
        >>> places_among({0: "T1w", 1: "FLAIR"}, {0: "flair", 1: "t1"})
        [1, 0]
    """
    there, here = _clear(declared), _clear(wanted)
    shared = there.keys() & here.keys()
    if shared and (len(shared) == len(wanted) or len(shared) == len(declared)):
        places = {channel: there.get(name) for name, channel in here.items()}
        return [places.get(channel) for channel in wanted]
    moved = any(there[name] != here[name] for name in shared)
    return None if moved else [channel if channel in declared else None for channel in wanted]


def channel_called(word: str, channels: Mapping[int, str], *, whose: str) -> int:
    """The channel that a word of a list means. Raises DataError when it is none of them, or more than one."""
    name = _meaning("".join(_words(word)))
    found = [channel for channel, other in channels.items() if _meaning("".join(_words(other))) == name]
    if len(found) != 1:
        raise DataError(
            f"{whose}: {word!r} is {'none' if not found else 'more than one'} of the channels {', '.join(channels.values())}."
        )
    return found[0]


def shared_name(files: Sequence[Path], channels: Mapping[int, str]) -> str:
    """What several files of one case are called together: the words they all begin with, else the folder they lie in.

    Example:
        >>> shared_name([Path("p1_ct.nii.gz"), Path("p1_pet.nii.gz")], {0: "PET", 1: "CT"})
        'p1'
    """
    grouped = {key[1] for key in group_by_name(files, channels)} if len(channels) > 1 else set()
    if len(grouped) == 1:
        return grouped.pop()
    words = [re.findall(r"[^\W_]+", _bare(path)) for path in files]
    begin = "_".join(words[0][: _common(words)])
    return begin or readable_name(files[0].parent.resolve().name)


def group_by_name(files: Sequence[Path], channels: Mapping[int, str]) -> dict[tuple[Path, str], list[tuple[int, Path]]]:
    """Files and DICOM folders of one place that are channels of one case: `p1_ct.nii.gz` and `p1_pet.nii.gz`, `p1/CT` and `p1/PET`.

    Args:
        files: of any cases; those that are named like no channel are left out.
        channels: channel -> name.

    Returns:
        (the place, the case's name) -> channel and file of each; the name is the file's without the channel's, and the
        place's own where nothing is left.

    Example:
        >>> list(group_by_name([Path("in/p1_ct.nii"), Path("in/ct.nii")], {0: "PET", 1: "CT"}))
        [(PosixPath('in'), 'p1'), (PosixPath('in'), 'in')]
    """
    clear = {name: channel for name, channel in _clear(channels).items() if not name.isdigit()}
    groups: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    spelt: dict[tuple[Path, str], tuple[Path, str]] = {}
    for path in files:
        found = _without_channel(_bare(path), clear)
        if found is not None:
            name = found[1] or readable_name(path.parent.resolve().name)
            key = spelt.setdefault((path.parent, same_file(name)), (path.parent, name))
            groups.setdefault(key, []).append((found[0], path))
    return groups


def distinct_parts(files: Sequence[Path]) -> list[str]:
    """The names of one case's files without what all begin and end with.

    Example:
        >>> distinct_parts([Path("p1_ct.nii.gz"), Path("p1_pet.nii.gz")])
        ['ct', 'pet']
    """
    words = [re.findall(r"[^\W_]+", _bare(path)) for path in files]
    first, last = _shared(words)
    parts = ["_".join(one[first : len(one) - last]) for one in words]
    return parts if all(parts) else [_bare(path) for path in files]


def one_of_each(members: Sequence[tuple[int, Path]], channels: Mapping[int, str]) -> dict[int, Path]:
    """Channel -> file of one group. Raises DataError when two files are one channel."""
    order: dict[int, Path] = {}
    for channel, path in members:
        other = order.setdefault(channel, path)
        if other != path:
            raise DataError(f"{path}: is channel {channels[channel]!r} by its name, and so is {other.name}; keep one.")
    return dict(sorted(order.items()))


def _without_channel(text: str, clear: Mapping[str, int]) -> tuple[int, str] | None:
    """The channel that a name ends with, begins with or holds, and the name without it."""
    words = [(match.start(), match.end()) for match in re.finditer(r"[^\W_]+", text)]
    pieces = []
    for first in range(len(words)):
        for last in range(first, min(first + _LONGEST, len(words))):
            piece = "".join(text[start:end].casefold() for start, end in words[first : last + 1])
            channel = clear.get(_meaning(piece))
            if channel is not None:
                place = 2 if last == len(words) - 1 else 1 if first == 0 else 0
                pieces.append((place, len(piece), channel, words[first][0], words[last][1]))
    if not pieces:
        return None
    _, _, channel, start, end = max(pieces)
    return channel, "_".join(part for part in (text[:start].rstrip(_BETWEEN), text[end:].lstrip(_BETWEEN)) if part)


def _clear(channels: Mapping[int, str]) -> dict[str, int]:
    """What a channel's name means -> the channel, where it means no other."""
    meant: dict[str, list[int]] = {}
    for channel, name in channels.items():
        meant.setdefault(_meaning("".join(_words(name))), []).append(channel)
    return {name: found[0] for name, found in meant.items() if len(found) == 1}


def _told(files: Sequence[Path], channels: Mapping[int, str]) -> dict[Path, list[int]]:
    """File -> the channels that its name says; of several the one with the longest name."""
    clear = _clear(channels)
    words = {path: _words(_bare(path)) for path in files}
    first, last = _shared(list(words.values()))
    return {
        path: _longest(spoken[first : len(spoken) - last], clear) or _longest(spoken, clear)
        for path, spoken in words.items()
    }


def _longest(words: Sequence[str], meant: Mapping[str, int]) -> list[int]:
    lengths: dict[int, int] = {}
    for first in range(len(words)):
        for end in range(first + 1, min(first + _LONGEST, len(words)) + 1):
            piece = "".join(words[first:end])
            channel = meant.get(_meaning(piece))
            if channel is not None:
                lengths[channel] = max(lengths.get(channel, 0), len(piece))
    return [channel for channel, length in lengths.items() if length == max(lengths.values())]


def _bare(path: Path) -> str:
    """A file's or folder's name without suffixes of volumes."""
    return re.sub(r"(\.(nii|nrrd|nhdr|mha|mhd|mgh|mgz|hdr|img|seg|dcm|gz))+$", "", readable_name(path.name), flags=re.I)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.casefold()) if word]


def _meaning(word: str) -> str:
    return _MEANS.get(word, word)


def _shared(names: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many words all names begin with, and end with: a patient's number says nothing of the channel."""
    first = _common(names)
    return first, _common([list(reversed(words[first:])) for words in names])


def _common(names: Sequence[Sequence[str]]) -> int:
    if len(names) < 2:
        return 0
    count = 0
    for column in zip(*names, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count
