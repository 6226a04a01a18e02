"""One self-contained HTML file: sections in, page out. No script, no address outside the file, nothing to install.

write_report("report.html", "Demo", [scores_section(evaluation), timings_section({"training": 212.0})])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg import __version__
from medseg.io.atomic import write_text
from medseg.types import Affine, FilePath

from . import figures
from .practice import PracticeCard
from .result import CaseScores, Evaluation
from .scores import DEFINITIONS, METRICS
from .templates import markup, render

WIDEST = 8  # labels side by side in the table of cases


@dataclass
class Section:
    """A heading and what stands below it, as HTML; the methods add content, whose text is escaped by the templates."""

    title: str
    parts: list[str] = field(default_factory=list)

    def text(self, words: str, *, quiet: bool = False) -> Section:
        """Add a paragraph."""
        return self._add("text", words=words, quiet=quiet)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Section:
        """Add a table; floats are right-aligned with four digits, NaN is a dash."""
        return self._add("table", header=header, rows=[[_cell(value) for value in row] for row in rows])

    def folded(self, words: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Section:
        """Add a table that a reader opens."""
        return self._add("folded", words=words, inside=Section("").table(header, rows).parts)

    def figure(self, picture: str, caption: str = "") -> Section:
        """Add a picture: SVG text or a `data:` address, as `figures` gives them.

        Raises:
            ValueError: something else, such as a path: the page must hold its pictures.
        """
        if not picture.startswith(("<svg", "data:image/")):
            raise ValueError(f"a picture is SVG text or a data: address, not {picture[:40]!r}")
        return self._add("figure", picture=markup(picture) if picture.startswith("<svg") else picture, caption=caption)

    def _add(self, template: str, **values: object) -> Section:
        self.parts.append(render(template, **values))
        return self


def write_report(path: FilePath, title: str, sections: Sequence[Section | None], *, subtitle: str = "") -> Path:
    """Write the page, atomically; None among the sections is left out. Returns the path."""
    kept = [section for section in sections if section is not None]
    write_text(path, render("page", title=title, subtitle=subtitle, sections=kept, version=__version__))
    return Path(path)


def scores_section(
    evaluation: Evaluation,
    *,
    title: str = "Scores",
    metrics: Sequence[str] = ("dice", "hd95_mm", "nsd", "volume_error_ml"),
    note: str = "",
) -> Section:
    """Means with their confidence intervals, box plots per label, and the definitions."""
    section = Section(title)
    if note:
        section.text(note)
    chosen = [metric for metric in metrics if metric in evaluation.settings.metrics]
    rows = []
    for label, row in evaluation.summary().items():
        cells: list[object] = [label, max((row[m].count for m in chosen), default=0)]
        for metric in chosen:
            interval = row[metric]
            cells.append(_interval(interval.mean, interval.low, interval.high))
        rows.append(cells)
    section.table(["label", "cases", *(_heading(metric) for metric in chosen)], rows)
    for metric in chosen[:3]:
        values = {label: evaluation.values(metric, label) for label in evaluation.regions}
        section.figure(figures.boxes(values, y_label=_heading(metric)), f"{_heading(metric)} per label, a dot per case")
    if evaluation.failed:
        section.table(["case that could not be scored", "reason"], evaluation.failed.items())
    for group in ("interval", *evaluation.settings.groups, "empty"):
        section.text(f"{group}: {DEFINITIONS[group]}.", quiet=True)
    if "surface" in evaluation.settings.groups:
        section.text(f"nsd at a tolerance of {evaluation.settings.tolerance_mm:g} mm.", quiet=True)
    return section


def cases_section(
    evaluation: Evaluation, *, title: str = "Cases", metric: str = "dice", stamps: Mapping[str, str] | None = None
) -> Section:
    """Every case, the worst first: one metric of each label, folded until a reader opens it.

    With more than `WIDEST` labels a row holds the mean and the worst label instead of all of them. `stamps` are case name ->
    a warning, such as that the model was not made for the case.
    """
    section = Section(title)
    if metric not in evaluation.settings.metrics:
        metric = evaluation.settings.metrics[0]
    labels, sign = list(evaluation.regions), METRICS[metric][2] or 1
    stamps = {name: f" ({stamp})" for name, stamp in (stamps or {}).items() if stamp}
    narrow = len(labels) > WIDEST
    rows: list[list[object]] = []
    shown = {case.name for case in evaluation.worst(len(evaluation.cases), metric=metric)}
    for case in evaluation.worst(len(evaluation.cases), metric=metric):
        values = {label: scores.values.get(metric, math.nan) for label, scores in case.labels.items()}
        defined = {label: value for label, value in values.items() if not math.isnan(value)}
        worst = min(defined, key=lambda label: sign * defined[label])
        own = [f"{worst}: {defined[worst]:.4f}"] if narrow else [values.get(label, math.nan) for label in labels]
        rows.append([case.name + stamps.get(case.name, ""), *([case.mean(metric)] if len(labels) > 1 else []), *own])
    header = ["case", *(["mean over labels"] if len(labels) > 1 else []), *(["worst label"] if narrow else labels)]
    section.folded(f"{_heading(metric)} of {len(rows)} cases, worst first", header, rows)
    if stamps:
        section.text("".join(f"{name}{stamp} " for name, stamp in sorted(stamps.items())))
    left = sorted({case.name for case in evaluation.cases} - shown)
    if left:
        section.text(f"{_heading(metric)} is defined for no label of: {', '.join(left)}.", quiet=True)
    return section


@dataclass(frozen=True, eq=False)
class Scene:
    """One case to show: image, predicted and reference labels on one grid; any of the label maps may be None."""

    name: str
    image: ArrayLike
    prediction: NDArray[np.integer] | None
    reference: NDArray[np.integer] | None
    affine: Affine
    scores: CaseScores | None = None
    stamp: str = ""


def overlays_section(scenes: Iterable[Scene], labels: Mapping[int, str], *, title: str = "Overlays") -> Section:
    """Three planes of each case; the prediction is filled, the reference a line."""
    section = Section(title)
    for scene in scenes:
        caption = scene.name
        if scene.scores is not None:
            dice = {label: scores.values.get("dice", math.nan) for label, scores in scene.scores.labels.items()}
            caption += ": Dice " + ", ".join(f"{label} {value:.3f}" for label, value in dice.items())
        picture = figures.overlay(
            scene.image, scene.prediction, scene.reference, scene.affine, labels=labels, stamp=scene.stamp
        )
        section.figure(picture, caption)
    return section.text("Filled: prediction. Line: reference.", quiet=True)


def curves_section(
    plots: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    x_label: str = "epoch",
    title: str = "Training",
) -> Section:
    """One plot per entry: plot name -> {line name -> (x, y)}; plots without a point are left out."""
    section = Section(title)
    for name, series in plots.items():
        lines = {line: points for line, points in series.items() if len(points[0])}
        if lines:
            section.figure(figures.curves(lines, x_label=x_label, y_label=name), name)
    return section


def training_section(rows: Sequence[Mapping[str, float]], *, title: str = "Training") -> Section:
    """Loss and Dice curves of one run.

    Args:
        rows: one per epoch, as a run's `metrics.json` holds them: `epoch`, and `train_...` and `val_...` numbers; a
            number that an epoch lacks is left out of its line.
        title: of the section.
    """
    plots: dict[str, dict[str, tuple[list[float], list[float]]]] = {"loss": {}, "Dice": {}}
    for name in dict.fromkeys(key for row in rows for key in row if key.startswith(("train_", "val_"))):
        kind = "loss" if "loss" in name else "Dice" if "dice" in name else name.replace("_", " ")
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        plots.setdefault(kind, {})[name.replace("_", " ")] = ([x for x, _ in points], [y for _, y in points])
    return curves_section(plots, title=title)


def timings_section(seconds: Mapping[str, float], *, title: str = "Time") -> Section:
    """What took how long, in seconds."""
    rows: list[Sequence[object]] = [(name, f"{value:.1f} s") for name, value in seconds.items()]
    rows.append(("all", f"{sum(seconds.values()):.1f} s"))
    return Section(title).table(["step", "wall time"], rows)


def paths_section(paths: Mapping[str, FilePath], *, title: str = "Files") -> Section:
    """Where things were written."""
    return Section(title).table(["what", "where"], [(name, str(path)) for name, path in paths.items()])


def facts_section(title: str, facts: Mapping[str, object]) -> Section:
    """A table of names and values."""
    return Section(title).table(["", ""], list(facts.items()))


def practice_section(card: PracticeCard, *, title: str = "Practice card") -> Section:
    """What was done and what was not."""
    marks = {True: "yes", False: "no", None: "unknown"}
    return Section(title)._add("marks", rows=[(marks[done], name, text) for name, done, text in card.rows()])


def _heading(metric: str) -> str:
    unit = METRICS[metric][1]
    name = metric.removesuffix(f"_{unit}") if unit else metric
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def _interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "not defined"
    return f"{mean:.4f}" + ("" if math.isnan(low) else f" [{low:.4f}, {high:.4f}]")


def _cell(value: object) -> tuple[bool, str]:
    """Whether a value is a number, and how it is written."""
    if isinstance(value, float):
        return True, "-" if math.isnan(value) else f"{value:.4f}"
    return isinstance(value, int) and not isinstance(value, bool), str(value)
