"""What a finished run shows in the tracking server: its plan without places and names, its curves, and one page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.errors import printable

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


def curves_picture(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Loss and validation Dice over steps as PNG.

    Args:
        rows: one mapping per epoch with `step`, and `train_loss` or `val_...` where they were measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("epoch", "step", "seconds")))
    for axis, prefix in zip(axes, ("train_", "val_"), strict=True):
        for key in (key for key in keys if key.startswith(prefix)):
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot(
                *zip(*points, strict=True),
                label=printable(key).replace("$", r"\$"),
                marker="." if len(points) < 20 else None,
            )
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(fontsize="x-small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def run_page(title: str, rows: Sequence[Mapping[str, float]], manifest: Mapping[str, Any], picture: bytes) -> str:
    """One HTML page that needs no other file: last figures, curves, and what the run was made of."""
    last: dict[str, float] = {}
    for row in rows:
        last.update(row)
    facts = {key: value for key, value in manifest.items() if not isinstance(value, Mapping)}

    def table(values: Mapping[str, Any]) -> str:
        rows = [[html.escape(printable(str(one))) for one in row] for row in values.items()]
        return "<table>" + "".join(f"<tr><td>{k}</td><td>{v}</td></tr>" for k, v in rows) + "</table>"

    image = base64.b64encode(picture).decode()
    return (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><h1>{html.escape(title)}</h1>"
        f"<h2>Last figures</h2>{table(last)}<img alt='curves' src='data:image/png;base64,{image}'>"
        f"<h2>Made of</h2>{table(facts)}"
    )
