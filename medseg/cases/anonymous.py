"""`--anonymous-names`: cases are called after a hash of their images, and nothing that a run writes says their real names.

Files get the new names at once. Messages are written by whoever finds a fault, so each passes a mask on its way out: errors
of cases, log records, and exceptions that end the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, printable
from medseg.io import Case
from medseg.io.behind import case_digest
from medseg.io.volume import case_name

from .batch import CaseResult

FOLDER = "input"  # what stands for a folder of scans
READERS = ("pydicom", "nibabel", "highdicom", "SimpleITK")  # their messages quote headers
COLUMNS = {"image", "label", "name", "subject"}
LONGEST_LIST = 1 << 22  # bytes of a csv list
MOST = 20_000  # files of a folder
SHORTEST = 3  # letters of a name that is looked for inside a message


def anonymous(cases: Sequence[Case]) -> list[Case]:
    """The cases under new names, each a hash of the bytes of all files behind its images; equal images get a number.

    Example:
        >>> anonymous([Case("MUSTERMANN", (Path("no_such_file.nii.gz"),))])[0].name
        'case_unreadable_1'
    """
    found: list[Case] = []
    seen: dict[str, int] = {}
    for case in cases:
        try:
            name = f"case_{case_digest(case)[:16]}"
        except (MedsegError, OSError):  # it fails by itself when its turn comes
            name = "case_unreadable"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1 or name == "case_unreadable":
            name = f"{name}_{seen[name]}"
        found.append(dataclasses.replace(case, name=name))
    return found


class Mask:
    """Replaces the names and places of cases in text.

    Args:
        cases: as the user named them.
        renamed: the same cases from `anonymous`.
        words: the inputs as they were given: their folders are hidden too.
    """

    def __init__(self, cases: Sequence[Case], renamed: Sequence[Case], words: Sequence[Any] = ()) -> None:
        self.pairs = list(zip(cases, renamed, strict=True))
        self.words = [_fixed(Path(word)) for word in words]

    @cached_property
    def _table(self) -> dict[str, str]:
        """What is looked for -> what stands for it; made when the first message comes."""
        table: dict[str, str] = {}
        for word in self.words:
            table |= dict.fromkeys(_cells(word), FOLDER)
        places = [(word, word.is_dir()) for word in self.words]
        places += [(path, False) for case, _ in self.pairs for path in case.images]
        for path, deep in dict.fromkeys(places):
            place = path if deep else path.parent
            table |= dict.fromkeys(_spellings(place), FOLDER)
            for inside in islice(_entries(place, deep=deep), MOST):
                name = os.path.basename(inside)
                # a name without a suffix may be a word of the message
                whole = _written(name) | _written(case_name(Path(name))) if "." in name else ()
                table |= dict.fromkeys([*_spellings(place / inside), *whole], FOLDER)
        for case, renamed in self.pairs:
            table |= dict.fromkeys(_written(case.name), renamed.name)
            for path in case.images:
                known = [path, *(path / inside for inside in (_entries(path, deep=False) if path.is_dir() else ()))]
                for one in known:
                    table |= dict.fromkeys([*_spellings(one), *_written(one.name)], renamed.name)
        return {text: name for text, name in table.items() if len(text) >= SHORTEST or os.sep in text.strip("./\\")}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self._table, key=len, reverse=True)
        return re.compile("|".join(rf"(?<![^\W_]){re.escape(text)}(?![^\W_])" for text in longest) or r"(?!)")

    def text(self, text: str) -> str:
        """A message that says no more than the new names."""
        return self._pattern.sub(lambda found: self._table[found.group(0)], text)

    def result(self, case: CaseResult) -> CaseResult:
        """What became of a case, fit for the screen and summary.json."""
        case.error = self.text(case.error)
        case.steps = [self.text(step) for step in case.steps]
        case.out_of_scope = [self.text(sentence) for sentence in case.out_of_scope]
        return case

    @contextlib.contextmanager
    def over_messages(self) -> Iterator[None]:
        """Log records and exceptions that leave the block are masked; warnings of foreign readers stay away."""
        before = logging.getLogRecordFactory()

        def make(*arguments: object, **named: object) -> logging.LogRecord:
            record = before(*arguments, **named)
            return self._masked(record) if current[0] else record

        current = [True]
        logging.setLogRecordFactory(make)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            error.args = tuple(self.text(one) if isinstance(one, str) else one for one in error.args)
            if isinstance(error, OSError):
                error.filename = None if error.filename is None else self.text(str(error.filename))
            raise
        finally:
            current[0] = False
            if logging.getLogRecordFactory() is make:
                logging.setLogRecordFactory(before)

    def _masked(self, record: logging.LogRecord) -> logging.LogRecord:
        if record.name.split(".")[0] in READERS:
            record.msg, record.args = f"{record.name}: what it says is not shown with anonymous names", ()
        else:
            record.msg, record.args = self.text(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record


def _fixed(word: Path) -> Path:
    """A word of the command line, or the folder in which its pattern looks."""
    marked = [number for number, part in enumerate(word.parts) if any(mark in part for mark in "*?[")]
    return Path(*word.parts[: marked[0]]) if marked and not word.exists() else word


def _entries(folder: Path, *, deep: bool) -> Iterator[str]:
    """What lies in a folder, relative to it; nothing where it cannot be read."""
    for place, folders, files in os.walk(folder):
        below = os.path.relpath(place, folder)
        yield from (name if below == "." else os.path.join(below, name) for name in (*folders, *files))
        if not deep:
            return


def _cells(path: Path) -> set[str]:
    """Every text of a csv list: names and paths, which need not exist."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return set()
    text = path.read_bytes()[:LONGEST_LIST].decode("utf-8", "replace")
    cells = {cell.strip(" '\"\r\ufeff") for cell in re.split(r"[,;\t\n]", text)}
    return {form for cell in cells if not cell.replace(".", "").isdigit() for form in _written(cell)} - COLUMNS


def _written(text: str) -> set[str]:
    """A name as messages write it: as it is, with control characters escaped, and as Python shows it."""
    return {text, printable(text), repr(text)[1:-1], ascii(text)[1:-1]} if text else set()


def _spellings(path: Path) -> set[str]:
    """A path as given, absolute, and with links resolved; nothing for the working directory and the root."""
    found = {path, path.absolute(), path.resolve()}
    return {text for one in found if one.name not in ("", "..") for text in _written(str(one))}
