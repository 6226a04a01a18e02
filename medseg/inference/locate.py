"""Low resolution first: a coarse network finds the box that holds the organs, the full-resolution network works inside.

Inside the box the labels are those that the full-resolution network gives without this (see `part.py`); outside they are 0.
Where the coarse network finds nothing, the whole volume is computed: it may be wrong, and nobody should take its silence
for an empty scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.io import Volume
from medseg.transforms.preprocessing import Prepared

from .predictor import Predictor
from .windows.part import Box

# What the coarse network may miss of an organ, and the context that the full-resolution one sees beyond its border.
MARGIN_MM = 20.0


@dataclass
class Both:
    """A volume on the grids of both networks."""

    coarse: Prepared
    full: Prepared


class LocatingPredictor:
    """Two predictors as one; `medseg predict --fast`.

    Args:
        coarse: segments quickly at low resolution; only where its labels lie counts.
        full: the bundle's own predictor.
        margin_mm: added to the box on every side.
        find: labels of the coarse network that make the box; all but 0 by default.
    """

    def __init__(
        self, coarse: Predictor, full: Predictor, *, margin_mm: float = MARGIN_MM, find: Sequence[int] | None = None
    ) -> None:
        if margin_mm < 0:
            raise ConfigError(f"low_resolution: margin_mm is {margin_mm}; expected 0 or more")
        self.coarse, self.full, self.margin_mm = coarse, full, float(margin_mm)
        self.find = None if find is None else [int(value) for value in find]
        self.box: Box | None = None
        self.notes: list[str] = []

    @property
    def probabilities(self) -> NDArray[np.float16] | None:
        return self.full.probabilities

    @property
    def uncertainty(self) -> NDArray[np.uint8] | None:
        return self.full.uncertainty

    @property
    def confidence(self) -> dict[str, NDArray[np.float64]]:
        return self.full.confidence

    @property
    def steps(self) -> list[str]:
        return [*self.notes, *self.full.steps]

    def prepare(self, volume: Volume) -> Both:
        """The volume on both grids."""
        return Both(self.coarse.prepare(volume), self.full.prepare(volume))

    def segment(self, prepared: Both, progress: Callable[[int, int], None] | None = None) -> NDArray[np.integer]:
        """The label map of a prepared volume, as `Predictor.segment`."""
        rough = self.coarse.segment(prepared.coarse)
        found = rough != 0 if self.find is None else np.isin(rough, self.find)
        spacing = np.linalg.norm(prepared.full.source_affine[:3, :3], axis=0)
        self.box = box_round(found, [self.margin_mm / step for step in spacing])
        self.notes = [] if self.box else ["the low-resolution network found nothing: the whole volume was computed"]
        return self.full.segment(prepared.full, progress, box=self.box)

    def describe(self) -> dict[str, Any]:
        """The full predictor's facts, and how the box came about."""
        coarse = {key: value for key, value in self.coarse.describe().items() if key != "stepped_down"}
        fast = {"box": self.box, "margin_mm": self.margin_mm, "find": self.find, "coarse": coarse}
        return {**self.full.describe(), "stepped_down": self.steps, "fast": fast}


def box_round(found: NDArray[np.bool_], margin: Sequence[float]) -> Box | None:
    """First voxel and end, per axis, of what is true, with a margin in voxels; None when nothing is.

    Example:
        >>> box_round(np.eye(5, dtype=bool)[None, 1:3], [0, 1.5, 0])
        ((0, 1), (0, 2), (1, 3))
    """
    sides = []
    for axis, extra in enumerate(margin):
        hit = np.flatnonzero(found.any(axis=tuple(other for other in range(found.ndim) if other != axis)))
        if not len(hit):
            return None
        room = int(np.ceil(extra))
        sides.append((max(int(hit[0]) - room, 0), min(int(hit[-1]) + 1 + room, found.shape[axis])))
    return tuple(sides)
