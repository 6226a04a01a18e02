"""Pictures for reports: matplotlib without a window, returned as text that an HTML page can hold.

Curves and boxes become SVG; slices become PNG, in slices.py. pyplot and its global state are never touched.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medseg.errors import printable

from .slices import COLORS

INK = "#010203"  # stands for the colour of the page's text, light or dark


def as_text(name: str, longest: int = 60) -> str:
    """A name as matplotlib draws it letter by letter: no formula between dollars, no control characters, not hidden.

    A dollar after a backslash is drawn as a dollar where a text holds no formula; a legend leaves out what begins with `_`.
    """
    shown = printable(name if len(name) <= longest else f"{name[: longest - 1]}\u2026").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> str:
    """Lines over steps or epochs as SVG; name -> (x values, y values), NaN leaves a gap."""
    figure, axes = _figure(6.4)
    for i, (name, (x, y)) in enumerate(series.items()):
        style = "o-" if len(x) <= 30 else "-"
        color = COLORS[i % len(COLORS)]
        axes.plot(x, y, style, color=color, label=as_text(name), linewidth=1.4, **_dot(4))
    axes.set_xlabel(as_text(x_label))
    axes.set_ylabel(as_text(y_label))
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def boxes(values: Mapping[str, Sequence[float]], *, y_label: str, lowest: float | None = None) -> str:
    """One box per name with every case as a dot, as SVG; NaN values are left out and counted below the name.

    Args:
        values: name -> numbers; a single number is drawn as a dot without a box.
        y_label: of the axis.
        lowest: where the metric begins; an axis that begins above it says so.
    """
    figure, axes = _figure(max(3.0, 1.1 + 0.75 * len(values)))
    generator = np.random.default_rng(0)
    names = []
    for i, (name, numbers) in enumerate(values.items(), start=1):
        defined = np.asarray([v for v in numbers if not math.isnan(v)])
        names.append(
            f"{as_text(name)}\nn={len(defined)}"
            + (f" ({len(numbers) - len(defined)} undefined)" * (len(defined) < len(numbers)))
        )
        if not len(defined):
            continue
        if len(defined) > 1:
            lines = {"color": INK}
            axes.boxplot(
                [defined], positions=[i], widths=0.5, showfliers=False,
                medianprops=lines, boxprops=lines, whiskerprops=lines, capprops=lines,
            )  # fmt: skip
        spread = generator.uniform(-0.15, 0.15, len(defined)) if len(defined) > 1 else np.zeros(1)
        axes.plot(i + spread, defined, "o", color=COLORS[(i - 1) % len(COLORS)], **_dot(5))
    axes.set_xticks(range(1, len(names) + 1), names, fontsize=7, rotation=0 if len(names) <= 6 else 60)
    axes.set_xlim(0.4, len(names) + 0.6)
    truncated = lowest is not None and axes.get_ylim()[0] > lowest
    axes.set_ylabel(as_text(y_label) + (f"\n(axis does not begin at {lowest:g})" if truncated else ""))
    axes.grid(axis="y", alpha=0.3)
    return _svg(figure)


def agreement(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, unit: str) -> str:
    """Bland and Altman's plot as SVG: difference (prediction - reference) over mean, with mean and 95 % limits of agreement.

    Args:
        pairs: name -> (reference, prediction), one number per case.
        unit: of both.
    """
    figure, axes = _figure(6.4)
    for i, (name, (reference, prediction)) in enumerate(pairs.items()):
        first, second = np.asarray(reference, float), np.asarray(prediction, float)
        color = COLORS[i % len(COLORS)]
        difference = second - first
        axes.plot((first + second) / 2, difference, "o", color=color, label=as_text(name), **_dot(5))
        axes.axhline(difference.mean(), color=color, linewidth=1.2)
        if len(difference) > 1:
            width = 1.96 * difference.std(ddof=1)
            for limit in (difference.mean() - width, difference.mean() + width):
                axes.axhline(limit, color=color, linewidth=0.9, linestyle="--")
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"mean of both volumes ({unit})")
    axes.set_ylabel(f"prediction - reference ({unit})")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _dot(size: float) -> dict[str, Any]:
    """A rim in the colour of the text keeps a pale dot visible on a light page and a dark one on a dark page."""
    return {"markersize": size, "markeredgecolor": INK, "markeredgewidth": 0.4}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Matplotlib asks an `IPython` that is loaded for its version; another thread (MLflow's, which looks for a notebook) may still be
    importing it, and half of the module has none.
    """
    if sys.modules.get("IPython") is not None:
        with contextlib.suppress(ImportError):  # the other thread's to tell
            importlib.import_module("IPython")  # waits until it is whole
    return Figure(figsize=(width, height), layout="constrained")


def _figure(width: float) -> tuple[Figure, Any]:
    figure = new_figure(width, 3.4)
    axes = figure.add_subplot()
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    """As text without a background, whose ink is the colour of the page's text."""
    import matplotlib

    for axes in figure.axes:
        legend = axes.get_legend()
        for entry in legend.get_texts() if legend is not None else []:
            entry.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "medseg", "svg.fonttype": "none"}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace(INK, "currentColor")


def differences(rows: Mapping[str, tuple[float, float, float]], *, x_label: str) -> str:
    """Mean differences with their intervals, a row per name, and a line at 0, as SVG; NaN ends draw the mean alone."""
    figure, axes = _figure(6.4)
    figure.set_figheight(1.2 + 0.32 * max(1, len(rows)))
    for place, (mean, low, high) in enumerate(rows.values()):
        color = COLORS[0]
        if not math.isnan(low):
            axes.plot([low, high], [place, place], "-", color=color, linewidth=1.6)
        axes.plot([mean], [place], "o", color=color, **_dot(5))
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [as_text(name) for name in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(as_text(x_label))
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)
