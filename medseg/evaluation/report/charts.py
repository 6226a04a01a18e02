"""Pictures for reports: matplotlib without a window, returned as text that an HTML page can hold.

Curves and boxes become SVG; slices become PNG, in slices.py. pyplot and its global state are never touched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from medseg.errors import printable

from .slices import COLORS


def as_text(name: str, longest: int = 60) -> str:
    """A name as matplotlib draws it letter by letter: no formula between dollars, no control characters, not hidden.

    A dollar after a backslash is drawn as a dollar where a text holds no formula; a legend leaves out what begins with `_`.
    """
    shown = printable(name if len(name) <= longest else f"{name[: longest - 1]}\u2026").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> str:
    """Lines over steps or epochs as SVG; name -> (x values, y values), NaN leaves a gap."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (x, y)) in enumerate(series.items()):
        style = "o-" if len(x) <= 30 else "-"
        axes.plot(x, y, style, color=COLORS[i % len(COLORS)], label=as_text(name), markersize=3, linewidth=1.4)
    axes.set_xlabel(as_text(x_label))
    axes.set_ylabel(as_text(y_label))
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def boxes(values: Mapping[str, Sequence[float]], *, y_label: str) -> str:
    """One box per name with every case as a dot, as SVG; NaN values are left out and counted below the name."""
    figure = Figure(figsize=(max(3.0, 1.1 + 0.75 * len(values)), 3.4), layout="constrained")
    axes = figure.add_subplot()
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
        color = COLORS[(i - 1) % len(COLORS)]
        axes.boxplot([defined], positions=[i], widths=0.5, showfliers=False, medianprops={"color": "black"})
        axes.plot(i + generator.uniform(-0.15, 0.15, len(defined)), defined, ".", color=color, markersize=4, alpha=0.7)
    axes.set_xticks(range(1, len(names) + 1), names, fontsize=7, rotation=0 if len(names) <= 6 else 60)
    axes.set_xlim(0.4, len(names) + 0.6)
    axes.set_ylabel(as_text(y_label))
    axes.grid(axis="y", alpha=0.3)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "medseg", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
