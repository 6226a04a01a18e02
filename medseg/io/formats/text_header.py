"""What the formats with a text header (NRRD, MetaImage) share: lines, numbers, and the file that holds the voxels."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import UnreadableFileError

from .stream import open_file

LONGEST_HEADER = 1 << 20  # bytes; real ones have a few thousand
MOST_FILES = 100_000  # that one header may spread its voxels over


def lines_of(path: Path, *, end: bytes) -> tuple[list[str], int]:
    """Header lines, and the byte at which the voxels begin.

    Args:
        path: the file.
        end: the header ends with an empty line (b"") or after the line that begins with these bytes. A file that ends
            first is a header of its own.

    Raises:
        UnreadableFileError: missing, empty, no text, or without an end.
    """
    with open_file(path) as file:
        start = file.read(LONGEST_HEADER)
    if not start:
        raise UnreadableFileError(f"{path}: is empty (0 bytes); copy or export it again.")
    lines: list[str] = []
    position = 0
    while position < len(start):
        stop = start.find(b"\n", position)
        stop = len(start) if stop < 0 else stop
        line = start[position:stop].rstrip(b"\r")
        if len(line) > 65536 or b"\0" in line:
            raise UnreadableFileError(f"{path}: its header is not text; check the name, or export the file again.")
        position = stop + 1
        if end == b"" and not line.strip():
            return lines, position
        lines.append(line.decode("latin-1"))
        if end and line.startswith(end):
            return lines, position
    if len(start) == LONGEST_HEADER:
        raise UnreadableFileError(
            f"{path}: its header does not end within {LONGEST_HEADER} bytes; the file is damaged."
        )
    return lines, len(start)


def numbers(
    path: Path, key: str, text: str, *, count: int, whole: bool = False, finite: bool = True
) -> NDArray[np.float64]:
    """Exactly `count` numbers separated by spaces or commas. Raises UnreadableFileError naming file and field."""
    words = text.replace(",", " ").split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.array([])
    wrong = len(values) != count or (finite and not np.isfinite(values).all())
    if (
        wrong
        or (whole and not np.array_equal(values, np.rint(values)))
        or (whole and np.abs(values).max(initial=0) > 2**53)
    ):
        kind = "whole numbers" if whole else "numbers"
        raise UnreadableFileError(f"{path}: {key!r} is {text[:80]!r}, expected {count} {kind}; the header is damaged.")
    return values


def three_axes(sizes: list[int]) -> tuple[int, int, int]:
    """A shape of one to three axes, filled with 1."""
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def named_files(header: Path, key: str) -> list[Path]:
    """The existing files that a text header names under `key`: one, a list of lines, or a numbered pattern.

    Also what `file_beside` refuses to read, as long as it lies beside or below the header; nothing of a damaged header.

    Args:
        header: the file.
        key: such as `ElementDataFile`; case and spaces do not count.
    """
    try:
        with open_file(header) as file:
            text = file.read(LONGEST_HEADER)
    except UnreadableFileError:
        return []
    lines = [line.decode("latin-1").strip() for line in text.split(b"\n")]
    for number, line in enumerate(lines):
        found, _, value = line.replace("=", ":", 1).partition(":")
        if found.lower().replace(" ", "") == key.lower().replace(" ", ""):
            listed = lines[number + 1 :] if value.split()[:1] in (["LIST"], ["list"], ["List"]) else _names_in(value)
            usable = [name for name in listed if name and len(name) < 4096 and "\0" not in name and name != "LOCAL"]
            paths = [_beside(header, name) for name in usable if not _elsewhere(Path(name))]
            return [path for path in paths if path.is_file()]
        if not line and key.lower() != "elementdatafile":
            return []
    return []


def _names_in(value: str) -> list[str]:
    """`x.raw`, or the files of `x%03d.raw 1 20 1` (pattern, first, last, step)."""
    value = value.strip()
    match = re.fullmatch(r"(?P<name>.*%0?\d{0,3}d\S*)\s+(?P<first>\d+)\s+(?P<last>\d+)\s+(?P<step>\d+)(\s+\d+)?", value)
    if match is None or match["name"].count("%") != 1:
        return [value]
    numbers = range(int(match["first"]), int(match["last"]) + 1, max(1, int(match["step"])))
    return [match["name"] % number for number in numbers[:MOST_FILES]]


def _beside(header: Path, name: str) -> Path:
    """The header was read as Latin-1; a file's name is bytes, whatever they spell."""
    return header.parent / os.fsdecode(name.encode("latin-1"))


def _elsewhere(path: Path) -> bool:
    return path.is_absolute() or ".." in path.parts


def file_beside(header: Path, name: str) -> Path:
    """The voxel file that a detached header names, which must lie beside it.

    Raises:
        UnreadableFileError: a list or pattern of files, a path that leads elsewhere, or no such file.
    """
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise UnreadableFileError(f"{header}: spreads its voxels over several files ({name!r}); save it as one file.")
    if _elsewhere(Path(name)):
        raise UnreadableFileError(f"{header}: names a voxel file elsewhere ({name!r}); put both into one folder.")
    path = _beside(header, name)
    if not path.is_file():
        raise UnreadableFileError(f"{path}: no such file, though {header.name} names it; copy both files.")
    return path
