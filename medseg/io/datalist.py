"""One case: the files that belong to one scan of one person. Lists of cases as csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError, nearest

from .channels import channel_called
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


def read_case_list(path: Path, *, gaps: bool = False, channels: Mapping[int, str] | None = None) -> list[Case]:
    """Cases from a csv file with a header line.

    Columns: image (or image_0, image_1, ..., or image_ct, image_pet, ...: one per channel), and optionally name, label,
    subject, labels_present (values separated by spaces). Separator comma, semicolon or tab; paths are relative to the list; a
    name is the image's by default. Files need not exist yet: a missing one is the case's own failure.

    Args:
        path: the list.
        gaps: let a line leave out some of several image columns, as channels that the case does not have.
        channels: channel -> name, which columns that name their channel are matched with; without it they keep their order.

    Raises:
        UnreadableFileError: the list is missing.
        DataError: no text, an unknown or missing column, a row without an image, two equal names, or columns that name no
            channel, or one twice.
    """
    rows = _rows(path)
    header = [word.strip().lower() for word in rows[0]] if rows else []
    images = [column for column in header if re.fullmatch(r"image(_.+)?", column)]
    unknown = [column for column in header if column not in COLUMNS and column not in images]
    if not images:
        raise DataError(f"{path}: has no column 'image' in its first line ({', '.join(header)[:80]!r}); add one.")
    if unknown or len(set(header)) != len(header):
        cause = f"has the unknown column {unknown[0]!r}" if unknown else "has a column twice"
        raise DataError(f"{path}: {cause}. {nearest(unknown[0] if unknown else '', (*COLUMNS, 'image_0'))}")
    order = _columns(path, images, channels or {})
    absent = [channel for channel in channels or () if channel not in order and _named(images)]
    if absent and not gaps:
        raise DataError(
            f"{path}: has no column for channel {(channels or {})[absent[0]]} ({', '.join(images)}); add it."
        )
    cases = [
        _case(
            path,
            number,
            dict(zip(header, (word.strip() for word in row), strict=False)),
            order,
            absent=absent,
            gaps=gaps,
        )
        for number, row in enumerate(rows[1:], start=2)
        if any(word.strip() for word in row)
    ]
    if not cases:
        raise DataError(f"{path}: lists no case; add one line per case below the header.")
    check_unique(cases, whose=str(path))
    return cases


def named_columns(path: Path) -> list[str]:
    """The channels that the columns of a list name, in its order; empty where it numbers them. Raises as `read_case_list`."""
    words = [word.strip() for word in (_rows(path) or [[]])[0]]
    return [word.partition("_")[2] for word in _named([word for word in words if word.lower().startswith("image")])]


def _named(images: Sequence[str]) -> list[str]:
    return [column for column in images if not re.fullmatch(r"image(_\d+)?", column, re.IGNORECASE)]


def _columns(path: Path, images: Sequence[str], channels: Mapping[int, str]) -> dict[int, str]:
    """Channel -> image column, ascending; channels without a column are left out."""
    named = _named(images)
    if not named:
        numbers = {int(column.partition("_")[2] or 0): column for column in images}
        if len(numbers) < len(images) or max(numbers) - min(numbers) >= len(images) or min(numbers) > 1:
            raise DataError(f"{path}: numbers its image columns {', '.join(images)}; expected image_0, image_1, ...")
        return dict(enumerate(numbers[number] for number in sorted(numbers)))
    if len(named) < len(images):
        raise DataError(f"{path}: has image columns by numbers and by names ({', '.join(images)}); keep one kind.")
    if not channels:
        return dict(enumerate(images))
    order: dict[int, str] = {}
    for column in images:
        channel = channel_called(column.partition("_")[2], channels, whose=f"{path}: the column {column!r}")
        other = order.setdefault(channel, column)
        if other != column:
            raise DataError(f"{path}: {other} and {column} give channel {channels[channel]!r} twice; keep one.")
    return dict(sorted(order.items()))


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


def _case(
    path: Path, number: int, row: dict[str, str], columns: Mapping[int, str], *, absent: Sequence[int], gaps: bool
) -> Case:
    listed = {channel: row.get(column, "") for channel, column in columns.items()}
    if not any(listed.values()) or not (gaps or all(listed.values())):
        lacking = next(columns[channel] for channel, one in listed.items() if not one)
        raise DataError(f"{path}: line {number} has no {lacking!r}; every line needs all image columns.")
    images = tuple(path.parent / one for one in listed.values() if one)
    missing = tuple(channel for channel in sorted((*columns, *absent)) if not listed.get(channel))
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
