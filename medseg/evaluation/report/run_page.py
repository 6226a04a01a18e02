"""The page and the picture of one training run, from its `metrics.json` and its manifest."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg

from medseg.types import FilePath

from .charts import as_text, new_figure
from .page import Cell, write_report
from .sections import facts_section, training_section

NO_METRICS = ("epoch", "step", "seconds")


def curves_picture(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Loss and validation Dice over steps as PNG.

    Args:
        rows: one mapping per epoch with `step`, and `train_loss` or `val_...` where they were measured.
    """
    figure = new_figure(8, 3)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in NO_METRICS))
    for axis, prefix in zip(axes, ("train_", "val_"), strict=True):
        for key in (key for key in keys if key.startswith(prefix)):
            points = [(row["step"], row[key]) for row in rows if key in row]
            marker = "." if len(points) < 20 else None
            axis.plot(*zip(*points, strict=True), label=as_text(key), marker=marker)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(fontsize="x-small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def write_run_page(
    path: FilePath, title: str, rows: Sequence[Mapping[str, float]], manifest: Mapping[str, Any]
) -> Path:
    """Write the run's page: its last figures, its curves, and what it was made of.

    Args:
        path: of the page.
        title: of the run.
        rows: see `curves_picture`.
        manifest: what the run records of itself; tables in it are left out.
    """
    last = {key: Cell(f"{value:.4g}", number=True) for row in rows for key, value in row.items()}
    facts = {key: value for key, value in manifest.items() if not isinstance(value, Mapping)}
    sections = [
        facts_section("Last figures", last),
        training_section(rows, title="Curves"),
        facts_section("Made of", facts),
    ]
    return write_report(path, title, sections)
