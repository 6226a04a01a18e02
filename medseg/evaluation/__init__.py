"""Scores of label maps: overlap, surfaces, volumes, lesions; statistics over cases; the report."""

from .folders import evaluate_folders
from .result import CaseScores, Evaluation, read_evaluation
from .scores import DEFINITIONS, METRICS, LabelScores, ScoreSettings, score_case
from .statistics import Interval, PairedDifference, mean_interval, paired_difference

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
