"""What stands beside a label map of ours: how it is known again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import read_json

# ends of the names of what may lie beside a label map, behind the case's name
RECORD, PROBABILITIES, PICTURE = ".json", "_probabilities.nii.gz", ".png"
UNCERTAINTY = "_uncertainty.nii.gz"
SUMMARY = "summary.json"  # what became of every case of a run


def read_record(path: Path) -> Mapping[str, Any] | None:
    """The record at a path, of this or an earlier version; None when there is none, or the file is something else."""
    try:
        record = read_json(path) if path.is_file() else None
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and {"format", "inputs_sha256", "label_sha256", "model"} <= set(record)
    return record if known else None
