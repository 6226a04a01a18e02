"""Real cases above what a generator made for their label maps, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from medseg.io.atomic import write_bytes


def write_pictures(path: Path, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Write middle slices of (real, made) volumes (X, Y, Z) as PNG; False where there are none."""
    if not pairs:
        return False
    figure = Figure(figsize=(2.2 * len(pairs), 4.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(pairs), squeeze=False)
    for column, (real, made) in enumerate(pairs):
        low, high = float(real.min()), float(real.max())
        for row, (title, volume) in enumerate((("real", real), ("synthetic", made))):
            place = axes[row][column]
            place.imshow(volume[:, :, volume.shape[2] // 2].T.numpy(), cmap="gray", origin="lower", vmin=low, vmax=high)
            place.set_title(title, fontsize=8)
            place.axis("off")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    write_bytes(path, stream.getvalue())
    return True
