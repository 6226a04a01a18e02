"""Label maps that medseg wrote, told from scans by the record beside them: a second run must not segment the first one's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import MedsegError
from medseg.record import PROBABILITIES, RECORD, SUMMARY, UNCERTAINTY, read_record

from .behind import content_digest


def outputs_in(folder: Path) -> set[Path]:
    """What lies in a folder, or is a folder in it, and was written by the runs whose records lie there.

    A record says how the name of its label map ends. One of medseg 0.1 does not: then it is every file of the record's name
    but the scan that the label map was made from, which the record knows by its bytes. A label map whose own record is gone is
    known by the run's summary and the ends of names in the records that are left.
    """
    found: set[Path] = set()
    ends: set[str] = set()
    for path in sorted(folder.glob(f"*{RECORD}")):
        record = read_record(path)
        if record is None:
            continue
        stem = path.name.removesuffix(RECORD)
        found |= {folder / f"{stem}{PROBABILITIES}", folder / f"{stem}{UNCERTAINTY}"}
        if record.get("one_file_per_label"):
            found.add(folder / stem)
        elif record.get("suffix"):
            found.add(folder / f"{stem}{record['suffix']}")
            ends.add(record["suffix"])
        else:
            found |= _of_old_record(folder, stem, record)
    without = [name for name in _finished(folder) if not (folder / f"{name}{RECORD}").exists()] if ends else []
    return found | {folder / f"{name}{end}" for name in without for end in (*ends, PROBABILITIES, UNCERTAINTY)}


def _finished(folder: Path) -> list[str]:
    """The cases that the summary of a run in a folder lists with a label map."""
    try:
        cases = read_json(folder / SUMMARY)["cases"]
        return [case["name"] for case in cases if case["status"] in ("done", "skipped")]
    except (MedsegError, OSError, ValueError, KeyError, TypeError):
        return []  # none, or somebody else's file of that name


def _of_old_record(folder: Path, stem: str, record: Mapping[str, Any]) -> set[Path]:
    found = set()
    for path in folder.glob("*"):
        if path.name == stem and path.is_dir():
            found.add(path)
        elif path.name.startswith(f"{stem}.") and path.suffix != RECORD and path.is_file():
            try:
                digest = content_digest(path)
            except MedsegError:
                continue
            if digest not in record["inputs_sha256"]:
                found.add(path)
    return found
