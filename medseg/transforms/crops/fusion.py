"""Two crops mixed box by box at five levels: image and target of the pretext task Volume Fusion.

Source: Wang et al. 2023 (MIS-FM): 10 to 40 boxes with sides from 8 voxels to 62.5 % of the crop, later ones over earlier ones, the
level drawn for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = {0: "unfused", 1: "fused 1/4", 2: "fused 2/4", 3: "fused 3/4", 4: "replaced"}
BOXES, SHORTEST, LONGEST = (10, 40), 8, 0.625


def draw_levels(generator: np.random.Generator, roi_size: Sequence[int]) -> NDArray[np.int64]:
    """A map of levels (*roi_size), 0 where no box lies."""
    levels = np.zeros(tuple(roi_size), dtype=np.int64)
    for _ in range(int(generator.integers(BOXES[0], BOXES[1] + 1))):
        box = []
        for extent in roi_size:
            longest = max(1, int(LONGEST * extent))
            side = int(generator.integers(min(SHORTEST, longest), longest + 1))
            begin = int(generator.integers(0, extent - side + 1))
            box.append(slice(begin, begin + side))
        levels[tuple(box)] = int(generator.integers(1, len(LEVELS)))
    return levels


def fuse(first: NDArray[Any], second: NDArray[Any], levels: NDArray[np.int64]) -> NDArray[np.float32]:
    """(C, *roi): the first image, with as much of the second as the levels say."""
    share = (levels / (len(LEVELS) - 1)).astype(np.float32)
    return np.asarray((1 - share) * first + share * second, dtype=np.float32)
