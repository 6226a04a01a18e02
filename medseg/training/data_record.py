"""Which data a run learns from: its cases, their parts and the hashes of their files; and what is different when it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.io.behind import content_digest, files_behind
from medseg.io.datalist import Case
from medseg.layout import RunFolder

PARTS = {"train": "training", "val": "validation"}
Record = dict[str, dict[str, dict[str, Any]]]


def record_of(train: Sequence[Case], val: Sequence[Case]) -> Record:
    """part -> case name -> hashes of its files and what its annotation declares, JSON-ready."""
    return {part: {case.name: _facts(case) for case in cases} for part, cases in (("train", train), ("val", val))}


def _facts(case: Case) -> dict[str, Any]:
    return {
        "images": _digests(case.images),
        "label": _digests([case.label] if case.label else []),
        "missing": list(case.missing),
        "declared": None if case.labels_present is None else sorted(case.labels_present),
    }


def _digests(volumes: Iterable[Path]) -> list[str]:
    return [content_digest(file) for volume in volumes for file in files_behind(volume)]


def data_hash(record: Record) -> str:
    """What `medseg.tracking.manifest.data_fingerprint` gives for the same cases."""
    total = hashlib.sha256()
    facts = {name: entry for part in PARTS for name, entry in record[part].items()}
    for name in sorted(facts):
        for digest in [*facts[name]["images"], *facts[name]["label"]]:
            total.update(bytes.fromhex(digest))
    return total.hexdigest()


def changes_since(folder: Path, record: Record) -> str:
    """What is different from the data that the run in this folder was started with, in words; empty when nothing is.

    A run of an earlier version noted one hash for all of its data.
    """
    run = RunFolder(folder)
    try:
        return differences(read_json(run.cases), record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    try:
        before = read_json(run.manifest).get("data_sha256")
    except (OSError, ValueError, AttributeError):
        return ""
    return "files of its cases have other contents" if before not in (None, data_hash(record)) else ""


def differences(before: Mapping[str, Any], now: Record) -> str:
    """The difference of two records in words."""
    found: list[str] = []
    old_part = {name: part for part in PARTS for name in before[part]}
    new_part = {name: part for part in PARTS for name in now[part]}
    for old, new in (("train", "val"), ("val", "train")):
        moved = [name for name in new_part if old_part.get(name) == old and new_part[name] == new]
        found += _say(f"was in {PARTS[old]} and is in {PARTS[new]} by the split now", moved)
    found += _say("is new", [name for name in new_part if name not in old_part])
    found += _say("is no longer there", [name for name in old_part if name not in new_part])
    words = {"images": "has another image", "label": "has another label map", "missing": "lacks other channels"}
    words["declared"] = "declares other labels"
    both = [
        (name, before[old_part[name]][name], now[part][name]) for name, part in new_part.items() if name in old_part
    ]
    for key, text in words.items():
        found += _say(text, [name for name, old, new in both if old[key] != new[key]])
    return "; ".join(found)


def _say(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{listed}{more} {what}" if len(names) == 1 else f"{listed}{more}: each {what}"]
