"""One case: the files that belong to one scan of one person. Lists of cases as csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError, nearest

from .file_names import same_file
from .formats.stream import open_file
from .volume import case_name

COLUMNS = ("name", "image", "label", "subject", "labels_present")
LONGEST_LIST = 64 << 20  # bytes: a million cases


@dataclass(frozen=True)
class Case:
    """The files of one scan.

    Attributes:
        name: unique within its list; names the outputs.
        images: one path per channel file, in the order of the dataset's channels (a 4D file holds several).
        label: the label map, or None.
        subject: who was scanned; cases of one subject stay in one fold. None: a subject of its own.
        labels_present: label values that were annotated in this case; None: all of the dataset's.
        missing: channels of the dataset without a file in this case; `images` holds the others in order.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    subject: str | None = None
    labels_present: tuple[int, ...] | None = None
    missing: tuple[int, ...] = ()


def check_unique(cases: Iterable[Case], *, whose: str) -> None:
    """Refuse two cases of one name, since the second would overwrite the first one's output. Raises DataError."""
    seen: dict[str, Case] = {}
    for case in cases:
        # upper and lower case are one name on Windows and macOS
        other = seen.setdefault(same_file(case.name), case)
        if other is not case:
            raise DataError(
                f"{whose}: two cases are named {case.name!r} ({other.images[0]} and {case.images[0]}); rename one file, or give "
                "names in a csv list."
            )


def read_case_list(path: Path, *, gaps: bool = False) -> list[Case]:
    """Cases from a csv file with a header line.

    Columns: image (or image_0, image_1, ... one per channel), and optionally name, label, subject, labels_present (values
    separated by spaces). Separator comma, semicolon or tab; paths are relative to the list; a name is the image's by
    default. Files need not exist yet: a missing one is the case's own failure.

    Args:
        path: the list.
        gaps: let a line leave out some of several image columns, as channels that the case does not have.

    Raises:
        UnreadableFileError: the list is missing.
        DataError: no text, an unknown or missing column, a row without an image, or two equal names.
    """
    rows = _rows(path)
    header = [word.strip().lower() for word in rows[0]] if rows else []
    images = [column for column in header if re.fullmatch(r"image(_\d+)?", column)]
    unknown = [column for column in header if column not in COLUMNS and column not in images]
    if not images:
        raise DataError(f"{path}: has no column 'image' in its first line ({', '.join(header)[:80]!r}); add one.")
    if unknown or len(set(header)) != len(header):
        cause = f"has the unknown column {unknown[0]!r}" if unknown else "has a column twice"
        raise DataError(f"{path}: {cause}. {nearest(unknown[0] if unknown else '', (*COLUMNS, 'image_0'))}")
    images.sort(key=lambda column: int(column.partition("_")[2] or 0))
    cases = [
        _case(path, number, dict(zip(header, (word.strip() for word in row), strict=False)), images, gaps=gaps)
        for number, row in enumerate(rows[1:], start=2)
        if any(word.strip() for word in row)
    ]
    if not cases:
        raise DataError(f"{path}: lists no case; add one line per case below the header.")
    check_unique(cases, whose=str(path))
    return cases


def _rows(path: Path) -> list[list[str]]:
    with open_file(path) as file:
        content = file.read(LONGEST_LIST + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8 csv.") from None
    if len(content) > LONGEST_LIST or "\0" in text:
        raise DataError(f"{path}: is not a csv list; check the name.")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: is not a csv list ({error}); check its quotes.") from None


def _case(path: Path, number: int, row: dict[str, str], columns: list[str], *, gaps: bool) -> Case:
    listed = [row.get(column, "") for column in columns]
    if not any(listed) or not (gaps or all(listed)):
        raise DataError(
            f"{path}: line {number} has no {columns[listed.index('')]!r}; every line needs all image columns."
        )
    images = tuple(path.parent / one for one in listed if one)
    missing = tuple(channel for channel, one in enumerate(listed) if not one)
    present: tuple[int, ...] | None = None
    if row.get("labels_present"):
        words = row["labels_present"].split()
        if not all(word.isdigit() for word in words):
            raise DataError(
                f"{path}: line {number}: labels_present is {row['labels_present']!r}, expected whole numbers."
            )
        present = tuple(int(word) for word in words)
    name = row.get("name") or case_name(images[0])
    if not safe_name(name):
        raise DataError(
            f"{path}: line {number}: the name {name!r} cannot name a file; use letters, digits, '-', '_' and '.'."
        )
    label = path.parent / row["label"] if row.get("label") else None
    return Case(name, images, label, row.get("subject") or None, present, missing)


def safe_name(name: str) -> bool:
    """Whether a case name is one plain file name: no folder in it, not hidden, no control characters."""
    return (
        bool(name) and not name.startswith(".") and not re.search(r'[\\/:*?"<>|\x00-\x1f]', name) and len(name) <= 200
    )
