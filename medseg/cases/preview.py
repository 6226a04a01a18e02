"""One PNG per case: three planes through the labels, drawn without a window system."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.types import Affine

# Enough for a picture of 9 inches; a whole CT would take seconds to look through.
_MOST_VOXELS_PER_AXIS = 200


@dataclass(frozen=True)
class Picture:
    """A coarse copy of an image, a few megabytes, kept for its preview while the image itself is let go.

    Args:
        image: (X, Y, Z) every n-th voxel.
        affine: of the coarse grid.
        every: the slices that pick the same voxels of a label map.
    """

    image: NDArray[np.float32]
    affine: Affine
    every: tuple[slice, ...]

    @staticmethod
    def of(image: NDArray[np.float32], affine: Affine) -> Picture:
        """Thin out one channel (X, Y, Z)."""
        steps = [max(1, -(-size // _MOST_VOXELS_PER_AXIS)) for size in image.shape]
        every = tuple(slice(None, None, step) for step in steps)
        coarse = np.asarray(affine, dtype=np.float64) @ np.diag([*map(float, steps), 1.0])
        return Picture(np.array(image[every], dtype=np.float32, order="C", copy=True), coarse, every)

    def png(self, label: NDArray[np.integer], names: Mapping[int, str], *, stamp: str = "") -> bytes:
        """The bytes of a PNG file: the image with a label map (X, Y, Z) of the whole grid on it.

        Args:
            label: integers.
            names: label value -> name, for the legend.
            stamp: a warning across the top.
        """
        from medseg.evaluation.report.slices import overlay  # Pillow is loaded by the first picture

        coarse = np.ascontiguousarray(label[self.every])
        address = overlay(self.image, coarse, None, self.affine, labels=names, zoom=False, stamp=stamp)
        return base64.b64decode(address.partition(",")[2])
