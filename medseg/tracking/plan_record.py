"""What the tracking server keeps of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.config import read_json

# Values of plan.json that hold places and the names of cases.
NOT_RECORDED = ("data_folder", "splits")


def plan_record(path: Path) -> dict[str, Any]:
    """plan.json without the folder of the data and the names of its cases; the sizes of the folds stay.

    Warnings may quote names of files, so only their number is kept.
    """
    plan = read_json(path)
    folds = [{part: len(names) for part, names in fold.items()} for fold in plan.get("splits", [])]
    kept = {key: value for key, value in plan.items() if key not in NOT_RECORDED}
    return {**kept, "warnings": len(plan.get("warnings", [])), "cases_per_fold": folds}
