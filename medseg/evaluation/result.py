"""The scores of a set of cases: summary with confidence intervals, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import read_json
from medseg.errors import UnreadableFileError, printable
from medseg.io.atomic import write_json, write_text
from medseg.io.cells import text_cell
from medseg.types import FilePath

from .digits import interval, text_table
from .scores import BOUNDS, DEFINITIONS, METRICS, LabelScores, ScoreSettings, heading
from .statistics import Interval, Method, mean_interval

SCHEMA = "medseg.evaluation/1"
MEAN = "mean over labels"  # the row beside the labels' own: per case the mean over its defined labels

SHOWN = ("dice", "hd95_mm", "nsd", "volume_error_ml")  # of a table, unless other metrics are asked for

UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class CaseScores:
    """One scored case.

    Args:
        name: of the case.
        labels: label name -> its scores.
        prediction: the file scored, or None.
        reference: the file it was scored against, or None.
        spacing: mm per voxel.
    """

    name: str
    labels: dict[str, LabelScores]
    prediction: Path | None = None
    reference: Path | None = None
    spacing: tuple[float, ...] = ()

    def mean(self, metric: str) -> float:
        """Mean of one metric over the labels for which it is defined; NaN when it is for none."""
        values = [scores.values.get(metric, math.nan) for scores in self.labels.values()]
        defined = [value for value in values if not math.isnan(value)]
        return float(np.mean(defined)) if defined else math.nan


@dataclass
class Evaluation:
    """Scores of many cases.

    Args:
        cases: in order of their names.
        regions: label name -> label values.
        settings: what was computed and how.
        failed: case name -> why it could not be scored.
        skipped: names of reference cases that were left out on purpose.
    """

    cases: list[CaseScores]
    regions: dict[str, tuple[int, ...]]
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def values(self, metric: str, label: str | None = None) -> list[float]:
        """One number per case, NaN where not defined; `label` None takes the mean over labels of each case."""
        if label is None:
            return [case.mean(metric) for case in self.cases]
        return [case.labels[label].values.get(metric, math.nan) for case in self.cases]

    def mean(self, metric: str = "dice", label: str | None = None) -> float:
        """Mean over the cases for which the metric is defined; NaN when there is none."""
        return mean_interval(self.values(metric, label)).mean

    def summary(self, *, level: float = 0.95, method: Method = "t") -> dict[str, dict[str, Interval]]:
        """label name (and `MEAN`) -> metric -> mean with its confidence interval over cases."""
        rows: dict[str, str | None] = {name: name for name in self.regions}
        if len(self.regions) > 1:
            rows[MEAN] = None
        return {
            row: {
                metric: mean_interval(
                    self.values(metric, label), level=level, method=method, bounds=BOUNDS.get(metric, UNBOUNDED)
                )
                for metric in self.settings.metrics
            }
            for row, label in rows.items()
        }

    def worst(self, count: int, *, metric: str = "dice", label: str | None = None) -> list[CaseScores]:
        """The cases with the worst values of a metric, worst first; undefined ones are not among them."""
        sign = METRICS[metric][2] or 1
        ranked = [(sign * value, i) for i, value in enumerate(self.values(metric, label)) if not math.isnan(value)]
        return [self.cases[i] for _, i in sorted(ranked)[:count]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; an undefined number is null, and its reason stands beside it."""
        return {
            "schema": SCHEMA,
            "labels": {name: list(values) for name, values in self.regions.items()},
            "settings": {
                "metrics": list(self.settings.groups),
                "tolerance_mm": self.settings.tolerance_mm,
                "lesion_min_overlap": self.settings.min_overlap,
                "ignore_label": self.settings.ignore_label,
                "missing": self.settings.missing,
            },
            "definitions": {
                name: DEFINITIONS[name] for name in (*self.settings.groups, "interval", "empty", "missing")
            },
            "summary": {
                label: {metric: _without_nan(interval.as_dict()) for metric, interval in row.items()}
                for label, row in self.summary().items()
            },
            "cases": [_case_dict(case) for case in self.cases],
            "failed": self.failed,
            "skipped": self.skipped,
        }

    def to_json(self, path: FilePath) -> None:
        """Write everything as JSON, atomically."""
        write_json(path, self.as_dict())

    def to_csv(self, path: FilePath) -> None:
        """Write one row per case and label, atomically; an undefined number is an empty field with its reason last."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        metrics = self.settings.metrics
        writer.writerow(["case", "label", *metrics, "undefined"])
        for case in self.cases:
            for label, scores in case.labels.items():
                numbers = ["" if math.isnan(v := scores.values[metric]) else f"{v:.6g}" for metric in metrics]
                reasons = "; ".join(f"{metric}: {reason}" for metric, reason in scores.reasons.items())
                writer.writerow([text_cell(case.name), text_cell(label), *numbers, text_cell(reasons)])
        write_text(path, text.getvalue())

    def table(self, metrics: tuple[str, ...] = SHOWN) -> str:
        """A text table for the terminal: per label the mean and its 95 % interval over cases."""
        return text_table(*self._rows(metrics))

    def _repr_html_(self) -> str:
        """The same table in a notebook."""
        from .report.page import Section  # the templates, once a notebook shows something

        section = Section("").table(*self._rows(SHOWN)).text(f"{len(self.cases)} cases; {DEFINITIONS['interval']}")
        for name, reason in self.failed.items():
            section.text(f"failed: {name}: {reason}")
        return section.html()

    def _rows(self, metrics: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
        chosen = [metric for metric in metrics if metric in self.settings.metrics] or self.settings.metrics[:4]
        rows = []
        for label, row in self.summary().items():
            cells = [interval(row[metric].mean, row[metric].low, row[metric].high) for metric in chosen]
            rows.append([printable(label), str(max(row[metric].count for metric in chosen)), *cells])
        return ["label", "cases", *map(heading, chosen)], rows


def read_evaluation(path: FilePath) -> Evaluation:
    """Read back what `Evaluation.to_json` wrote.

    Raises:
        UnreadableFileError: the file is no such JSON.
    """
    try:
        content: Mapping[str, Any] = read_json(path)
        if content["schema"] != SCHEMA:
            raise KeyError(f"schema {content['schema']!r}")
        settings = ScoreSettings(
            groups=tuple(content["settings"]["metrics"]),
            tolerance_mm=content["settings"]["tolerance_mm"],
            min_overlap=content["settings"]["lesion_min_overlap"],
            ignore_label=content["settings"]["ignore_label"],
            missing=content["settings"].get("missing", "nan"),
        )
        cases = [_case_from(entry) for entry in content["cases"]]
        regions = {name: tuple(values) for name, values in content["labels"].items()}
        return Evaluation(cases, regions, settings, dict(content["failed"]), list(content["skipped"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFileError(f"{path}: no evaluation written by medseg ({SCHEMA}): {error}") from error


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def _case_dict(case: CaseScores) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for name, scores in case.labels.items():
        labels[name] = _without_nan(scores.values)
        if scores.reasons:
            labels[name]["undefined"] = scores.reasons
    return {
        "case": case.name,
        "prediction": str(case.prediction) if case.prediction else None,
        "reference": str(case.reference) if case.reference else None,
        "spacing": list(case.spacing),
        "labels": labels,
    }


def _case_from(entry: Mapping[str, Any]) -> CaseScores:
    labels = {}
    for name, values in entry["labels"].items():
        numbers = {key: math.nan if v is None else float(v) for key, v in values.items() if key != "undefined"}
        labels[name] = LabelScores(numbers, dict(values.get("undefined", {})))
    files = [Path(entry[side]) if entry[side] else None for side in ("prediction", "reference")]
    return CaseScores(entry["case"], labels, files[0], files[1], tuple(entry["spacing"]))
