"""One case: the files that belong to one scan of one person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError


@dataclass(frozen=True)
class Case:
    """The files of one scan.

    Attributes:
        name: unique within its list; names the outputs.
        images: one path per channel file, in the order of the dataset's channels (a 4D file holds several).
        label: the label map, or None.
        subject: who was scanned; cases of one subject stay in one fold. None: a subject of its own.
        labels_present: label values that were annotated in this case; None: all of the dataset's.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    subject: str | None = None
    labels_present: tuple[int, ...] | None = None


def check_unique(cases: Iterable[Case], *, whose: str) -> None:
    """Refuse two cases of one name, since the second would overwrite the first one's output. Raises DataError."""
    seen: dict[str, Case] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                f"{whose}: two cases are named {case.name!r} ({seen[case.name].images[0]} and {case.images[0]}); rename one "
                "file, or give names in a csv list."
            )
        seen[case.name] = case
