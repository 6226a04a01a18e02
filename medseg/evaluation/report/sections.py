"""What a report says about scores, cases, training and practice, each as a `Section`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.types import Affine, FilePath

from ..digits import interval, two_digits
from ..practice import PracticeCard
from ..result import CaseScores, Evaluation
from ..scores import BOUNDS, DEFINITIONS, METRICS, heading
from . import charts
from .page import Cell, Section, anchor_of
from .slices import overlay
from .viewer.volumes import Scan, viewer_case

IN_VIEWER = 3  # cases whose volumes a page carries
WIDEST = 8  # labels side by side in the table of cases


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
            cells.append(Cell(interval(row[metric].mean, row[metric].low, row[metric].high), number=True))
        rows.append(cells)
    section.table(["label", "cases", *(heading(metric) for metric in chosen)], rows)
    for metric in chosen[:3]:
        values = {label: evaluation.values(metric, label) for label in evaluation.regions}
        lowest = BOUNDS.get(metric, (None, None))[0]
        chart = charts.boxes(values, y_label=heading(metric), lowest=lowest)
        section.figure(chart, f"{heading(metric)} per label, a dot per case")
    if evaluation.failed:
        section.table(["case that could not be scored", "reason"], evaluation.failed.items())
    words = [f"{group}: {DEFINITIONS[group]}." for group in ("interval", *evaluation.settings.groups, "empty")]
    if "surface" in evaluation.settings.groups:
        words.append(f"nsd at a tolerance of {evaluation.settings.tolerance_mm:g} mm.")
    section.folded_text("What these words mean", words)
    return section


def cases_section(
    evaluation: Evaluation,
    *,
    title: str = "Cases",
    metric: str = "dice",
    stamps: Mapping[str, str] | None = None,
    pictured: Collection[str] = (),
) -> Section:
    """Every case, the worst first: one metric of each label, folded until a reader opens it.

    With more than `WIDEST` labels a row holds the mean and the worst label instead of all of them. `stamps` are case name ->
    a warning, such as that the model was not made for the case; the names in `pictured` lead to their pictures.
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
        own = (
            [f"{worst}: {two_digits(defined[worst])}"] if narrow else [values.get(label, math.nan) for label in labels]
        )
        name = Cell(case.name + stamps.get(case.name, ""), link=anchor_of(case.name) if case.name in pictured else "")
        rows.append([name, *([case.mean(metric)] if len(labels) > 1 else []), *own])
    header = ["case", *(["mean over labels"] if len(labels) > 1 else []), *(["worst label"] if narrow else labels)]
    section.folded(f"{heading(metric)} of {len(rows)} cases, worst first", header, rows)
    if stamps:
        section.text("".join(f"{name}{stamp} " for name, stamp in sorted(stamps.items())))
    left = sorted({case.name for case in evaluation.cases} - shown)
    if left:
        section.text(f"{heading(metric)} is defined for no label of: {', '.join(left)}.", quiet=True)
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
    role: str = ""


def showcase(evaluation: Evaluation, count: int, *, metric: str = "dice") -> list[tuple[str, CaseScores]]:
    """Cases to show, each with its role: the worst, the median and the best one, then the next worst ones, `count` in all."""
    ordered = evaluation.worst(len(evaluation.cases), metric=metric)
    if not ordered:
        return []
    roles = {0: "worst case"}
    roles.setdefault(len(ordered) // 2, "median case")
    roles.setdefault(len(ordered) - 1, "best case")
    first = [(role, ordered[place]) for place, role in roles.items()]
    others = [("", case) for place, case in enumerate(ordered) if place not in roles]
    return [*first, *others][:count]


def overlays_section(scenes: Iterable[Scene], labels: Mapping[int, str], *, title: str = "Overlays") -> Section:
    """Three planes of each case; the prediction is filled, the reference a line. The first `IN_VIEWER` can be looked into."""
    section = Section(title)
    for scene in scenes:
        caption = f"{scene.role}: {scene.name}" if scene.role else scene.name
        if scene.scores is not None:
            dice = {label: scores.values.get("dice", math.nan) for label, scores in scene.scores.labels.items()}
            caption += ": Dice " + ", ".join(f"{label} {two_digits(value)}" for label, value in dice.items())
        picture = overlay(
            scene.image,
            scene.prediction,
            scene.reference,
            scene.affine,
            labels=labels,
            stamp=scene.stamp,
            name=scene.name,
        )
        anchor = anchor_of(scene.name)
        section.figure(picture, caption, anchor=anchor)
        if len(section.volumes) < IN_VIEWER:
            scan = Scan(scene.image, scene.prediction, scene.reference, scene.affine)
            notes = [scene.stamp] if scene.stamp else []
            section.volumes.append(viewer_case(caption, anchor, scan, labels, notes=notes))
    return section.text(
        "First row: the image alone. Second: prediction filled, reference as a line. Third: what was missed and what is extra.",
        quiet=True,
    )


def agreement_section(evaluation: Evaluation, *, title: str = "Volumes") -> Section | None:
    """Volumes of prediction and reference against each other; None where no volumes were measured."""
    if not {"reference_ml", "prediction_ml"} <= set(evaluation.settings.metrics):
        return None
    pairs = {}
    for label in list(evaluation.regions)[:WIDEST]:
        both = zip(evaluation.values("reference_ml", label), evaluation.values("prediction_ml", label), strict=True)
        known = [(first, second) for first, second in both if not (math.isnan(first) or math.isnan(second))]
        if known:
            pairs[label] = ([first for first, _ in known], [second for _, second in known])
    if not pairs:
        return None
    section = Section(title).figure(charts.agreement(pairs, unit="ml"), "Bland and Altman: a dot per case and label")
    if len(evaluation.regions) > WIDEST:
        section.text(f"The first {WIDEST} of {len(evaluation.regions)} labels.", quiet=True)
    return section.text("Lines: the mean difference, and 1.96 standard deviations around it (dashed).", quiet=True)


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
            section.figure(charts.curves(lines, x_label=x_label, y_label=name), name)
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
