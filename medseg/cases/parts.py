"""Part i of N of a list of cases, and what each part says of itself in the output folder."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import ConfigError, ResourceError
from medseg.io import Case, write_json
from medseg.io.locks import claimed, is_held

from .batch import CaseResult

EVERY_S = 2.0  # between two reports
SILENT_S = 120.0  # a part that has said nothing for so long, and not that it ended, is gone
_NAME = re.compile(r"^summary\.part_(?P<index>\d+)_of_(?P<count>\d+)\.json$")
_CLAIM = re.compile(r"^\.part_(?P<index>\d+)_of_(?P<count>\d+)\.lock$")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 1; the whole list is part 1 of 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Part:
        """Raises ConfigError: no such part.

        Example:
            >>> Part.of("3/8")
            Part(index=3, count=8)
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not match:
            raise ConfigError(f"--part {text!r}: expected i/N, such as 1/8 for the first of eight parts")
        index, count = int(match[1]), int(match[2])
        if not 1 <= index <= count:
            raise ConfigError(
                f"--part {text}: there is no part {index} of {count}; the parts are 1/{count} to {count}/{count}"
            )
        return cls(index, count)

    def cases(self, cases: Sequence[Case]) -> list[Case]:
        """Every `count`-th case: neighbours in a list are often alike in size, and so every part has some of each."""
        return list(cases[self.index - 1 :: self.count])

    @property
    def text(self) -> str:
        return f"part {self.index} of {self.count}"

    def summary(self, folder: Path) -> Path:
        """What the part says of itself."""
        return folder / f"summary.part_{self.index}_of_{self.count}.json"

    def claim(self, folder: Path) -> Path:
        return folder / f".part_{self.index}_of_{self.count}.lock"


@contextlib.contextmanager
def alone_with(folder: Path, part: Part) -> Iterator[None]:
    """Write to a folder as the only run; parts of one division may run side by side.

    Raises:
        ResourceError: another run writes there.
    """
    for path in folder.glob(".part_*.lock"):
        match = _CLAIM.match(path.name)
        if match and int(match["count"]) != part.count and is_held(path):
            raise ResourceError(
                f"{folder}: another run (part {match['index']} of {match['count']}) writes there; wait for it, or choose another "
                "folder with --output"
            )
    claim = part.claim(folder)
    remedy = "wait for it, or choose another folder with --output"
    with claimed(claim, f"{folder}: {part.text}", remedy, doing="written", keep=False):
        yield


@dataclass
class PartReport:
    """What a part has done so far; written now and then, read by `medseg cluster status`.

    It only reports: what is done is decided by the records beside the label maps.
    """

    folder: Path
    part: Part
    cases: int
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    _written: float = 0.0

    def count(self, result: CaseResult) -> None:
        """Take a case's result."""
        if result.status == "failed":
            self.failed[result.name] = result.error
        else:
            self.done += 1
        self.write()

    def write(self, *, ended: bool = False) -> None:
        """Write it, at most every two seconds but for the last time."""
        now = time.time()
        if not ended and now - self._written < EVERY_S:
            return
        self._written = now
        facts: dict[str, Any] = {
            "part": [self.part.index, self.part.count], "host": socket.gethostname(), "pid": os.getpid(), "cases": self.cases,
            "done": self.done, "skipped": self.skipped, "failed": self.failed, "running": [] if ended else self.running,
            "updated": now, "ended": ended,
        }  # fmt: skip
        write_json(self.part.summary(self.folder), facts)


def reports_in(folder: Path) -> list[dict[str, Any]]:
    """What the parts in a folder say, in their order; unreadable ones are left out."""
    found = []
    for path in sorted(folder.glob("summary.part_*.json")):
        with contextlib.suppress(OSError, ValueError):
            report = read_json(path)
            if _NAME.match(path.name) and isinstance(report, dict):
                found.append(report)
    return sorted(found, key=lambda report: tuple(report.get("part", (0, 0)))[::-1])
