"""Logits on the network's grid -> labels on the source grid: interpolate the logits, then take the largest.

The other order (largest first, then nearest neighbour) is quicker and changes several per cent of the voxels near
boundaries, so it is not offered. Both steps are one pass (`medseg_kernels.stitch_labels`). Axes are turned back after
the reduction, on one byte per voxel instead of K floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medseg_kernels import AxisTable, axis_table, stitch_labels, stitch_logits

from .classes import label_dtype
from .grid import GridMap
from .regions import labels_of_regions


def place_label(label: NDArray[np.integer], grid: GridMap) -> NDArray[np.integer]:
    """Labels of the cut box in turned order -> the whole source grid in its own order; 0 outside the box.

    Args:
        label: (X, Y, Z) of `grid.extent`.
    """
    if grid.extent != grid.turned_shape:
        whole = np.zeros(grid.turned_shape, dtype=label.dtype)
        grid.cut(whole)[...] = label
        label = whole
    return np.ascontiguousarray(grid.turn_back(label))


def source_tables(grid: GridMap, offsets: Sequence[int] = (0, 0, 0)) -> list[AxisTable]:
    """Interpolation tables from the network's grid to the cut box of the source, per axis.

    Args:
        grid: `Prepared.grid`.
        offsets: voxels that were added in front of the network's grid.
    """
    return [
        axis_table(grid.shape[axis], grid.extent[axis], offset=offsets[axis], nearest=axis in grid.nearest)
        for axis in range(3)
    ]


def restore_label(logits: torch.Tensor, grid: GridMap, *, rounded: bool = False) -> NDArray[np.integer]:
    """The label of the largest logit on the source grid.

    Args:
        logits: (K, X, Y, Z) on the network's grid `grid.shape`; float32 or a 16-bit type.
        grid: `Prepared.grid`.
        rounded: take logits, and what is interpolated from them, to float16, as nnU-Net does.

    Returns:
        (X, Y, Z) of `grid.source_shape`, uint8 (uint16 from 256 classes on), C-contiguous.
    """
    if rounded:
        logits = logits.half()
    elif logits.dtype not in (torch.float32, torch.float16):
        logits = logits.float()
    best = stitch_labels(logits.contiguous(), None, *source_tables(grid), rounded=rounded).cpu()
    return place_label(best.numpy().astype(label_dtype(logits.shape[0] - 1), copy=False), grid)


def restore_regions(logits: torch.Tensor, grid: GridMap, writes: Sequence[int]) -> NDArray[np.integer]:
    """The label map of overlapping regions on the source grid; logits are interpolated first, as in `restore_label`.

    Args:
        logits: (R, X, Y, Z) on the network's grid.
        grid: `Prepared.grid`.
        writes: the label of each region; later ones write over earlier ones.
    """
    fine = stitch_logits(logits.float().contiguous(), None, *source_tables(grid)).cpu()
    return place_label(labels_of_regions(fine, writes).numpy(), grid)
