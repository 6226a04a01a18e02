"""Scores of label maps: overlap, surfaces, volumes, lesions; statistics over cases; the report.

The names are looked up when they are first asked for: whoever draws a preview needs no surfaces.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folders import evaluate_folders
    from .result import CaseScores, Evaluation, read_evaluation
    from .scores import DEFINITIONS, METRICS, LabelScores, ScoreSettings, score_case
    from .statistics import Interval, PairedDifference, mean_interval, paired_difference

_HOMES = {
    "DEFINITIONS": "scores",
    "METRICS": "scores",
    "CaseScores": "result",
    "Evaluation": "result",
    "Interval": "statistics",
    "LabelScores": "scores",
    "PairedDifference": "statistics",
    "ScoreSettings": "scores",
    "evaluate_folders": "folders",
    "mean_interval": "statistics",
    "paired_difference": "statistics",
    "read_evaluation": "result",
    "score_case": "scores",
}

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "CaseScores",
    "Evaluation",
    "Interval",
    "LabelScores",
    "PairedDifference",
    "ScoreSettings",
    "evaluate_folders",
    "mean_interval",
    "paired_difference",
    "read_evaluation",
    "score_case",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
