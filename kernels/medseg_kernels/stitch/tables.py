"""Interpolation tables: which two network voxels, and how much of each, make a source voxel along one axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AxisTable:
    """Linear interpolation along one axis.

    Args:
        index: (2, n) int32, the two network voxels of each target voxel.
        fraction: (n,) float32, the share of the second.
    """

    index: Tensor
    fraction: Tensor

    def __len__(self) -> int:
        return int(self.fraction.shape[0])

    def part(self, begin: int, end: int) -> AxisTable:
        """The table of target voxels begin .. end - 1."""
        return AxisTable(self.index[:, begin:end].contiguous(), self.fraction[begin:end].contiguous())


def axis_table(source: int, target: int, *, offset: int = 0, nearest: bool = False) -> AxisTable:
    """The table that stretches `source` voxels over `target`, outer edges aligned, outer values held.

    The positions are those of `torch.nn.functional.interpolate(align_corners=False)`.

    Args:
        source: voxels of the network's grid along the axis.
        target: voxels of the source grid.
        offset: added to every index, where the network's grid was padded in front.
        nearest: take the nearest voxel instead of interpolating.

    Example:
        >>> axis_table(2, 4).fraction.tolist()
        [0.0, 0.25, 0.75, 0.0]
    """
    if source < 1 or target < 1:
        raise ValueError(f"source={source}, target={target}: expected at least one voxel each")
    position = (torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    position.clamp_(0, source - 1)
    if nearest:
        position = (position + 0.5).floor().clamp_(0, source - 1)
    first = position.floor()
    fraction = (position - first).float()
    second = torch.where(fraction > 0, first + 1, first).clamp_max(source - 1)
    return AxisTable(torch.stack([first, second]).to(torch.int32) + offset, fraction)
