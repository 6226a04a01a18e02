"""One self-contained HTML file: sections in, page out. No script, no address outside the file, nothing to install.

write_report("report.html", "Demo", [scores_section(evaluation), timings_section({"training": 212.0})])
"""

from __future__ import annotations

import html
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

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #8884; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { opacity: .7; font-size: .9em; }
.scroll { overflow-x: auto; }
figure { margin: .8rem 0; display: inline-block; vertical-align: top; max-width: 100%; }
figcaption { font-size: .85em; opacity: .8; }
img, svg { max-width: 100%; height: auto; }
svg { background: white; }
.yes::before { content: "\\2713  "; color: #009E73; }
.no::before { content: "\\2717  "; color: #D55E00; }
.unknown::before { content: "?  "; }
"""

WIDEST = 8  # labels side by side in the table of cases


@dataclass
class Section:
    """A heading and what stands below it, as HTML; the methods add escaped content."""

    title: str
    parts: list[str] = field(default_factory=list)

    def text(self, words: str, *, quiet: bool = False) -> Section:
        """Add a paragraph."""
        self.parts.append(f"<p{' class=quiet' if quiet else ''}>{html.escape(words)}</p>")
        return self

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Section:
        """Add a table; floats are right-aligned with four digits, NaN is a dash."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
        self.parts.append(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>')
        return self

    def figure(self, picture: str, caption: str = "") -> Section:
        """Add a picture: SVG text or a `data:` address, as `figures` gives them.

        Raises:
            ValueError: something else, such as a path: the page must hold its pictures.
        """
        if picture.startswith("<svg"):
            content = picture
        elif picture.startswith("data:image/"):
            content = f'<img src="{picture}" alt="{html.escape(caption, quote=True)}">'
        else:
            raise ValueError(f"a picture is SVG text or a data: address, not {picture[:40]!r}")
        self.parts.append(f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>")
        return self


def write_report(path: FilePath, title: str, sections: Sequence[Section | None], *, subtitle: str = "") -> Path:
    """Write the page, atomically; None among the sections is left out. Returns the path."""
    body = "".join(
        f"<section><h2>{html.escape(section.title)}</h2>{''.join(section.parts)}</section>"
        for section in sections
        if section is not None
    )
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p class=quiet>{html.escape(subtitle)}</p>{body}"
        f"<p class=quiet>written by medseg {__version__}; a research tool, not a medical device</p></body></html>"
    )
    write_text(path, page)
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
    inner = Section("").table(header, rows).parts
    words = f"{_heading(metric)} of {len(rows)} cases, worst first"
    section.parts.append(f"<details><summary>{html.escape(words)}</summary>{''.join(inner)}</details>")
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
    section = Section(title)
    marks = {True: "yes", False: "no", None: "unknown"}
    rows = "".join(
        f'<tr><td class="{marks[done]}">{html.escape(name)}</td><td>{html.escape(text)}</td></tr>'
        for name, done, text in card.rows()
    )
    section.parts.append(f"<table>{rows}</table>")
    return section


def _heading(metric: str) -> str:
    unit = METRICS[metric][1]
    name = metric.removesuffix(f"_{unit}") if unit else metric
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def _interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "not defined"
    return f"{mean:.4f}" + ("" if math.isnan(low) else f" [{low:.4f}, {high:.4f}]")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{"-" if math.isnan(value) else f"{value:.4f}"}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"
