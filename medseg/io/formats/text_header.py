"""What the formats with a text header (NRRD, MetaImage) share: lines, numbers, and the file that holds the voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import UnreadableFileError

from .stream import open_file

LONGEST_HEADER = 1 << 20  # bytes; real ones have a few thousand


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


def file_beside(header: Path, name: str) -> Path:
    """The voxel file that a detached header names, which must lie beside it.

    Raises:
        UnreadableFileError: a list or pattern of files, a path that leads elsewhere, or no such file.
    """
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise UnreadableFileError(f"{header}: spreads its voxels over several files ({name!r}); save it as one file.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UnreadableFileError(f"{header}: names a voxel file elsewhere ({name!r}); put both into one folder.")
    path = header.parent / name
    if not path.is_file():
        raise UnreadableFileError(f"{path}: no such file, though {header.name} names it; copy both files.")
    return path
