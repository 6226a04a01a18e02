"""Positions as functions of coordinates instead of tables (FasterViT): the same weights serve any window and grid.

Source: Hatamizadeh et al. 2023 (FasterViT), after Liu et al. 2022 (Swin v2).
"""

from typing import List

import torch
from torch import Tensor, nn

from medseg_kernels import relative_coordinates

HIDDEN = 512  # width of both small networks in the publication


class ContinuousBias(nn.Module):
    """Relative-position table of a window: 16 * sigmoid(MLP(log-spaced offsets)).

    Args:
        axes: number of spatial axes.
        num_heads: H.
    """

    def __init__(self, axes: int, num_heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(axes, HIDDEN), nn.Linear(HIDDEN, num_heads, bias=False)

    def forward(self, window: List[int]) -> Tensor:
        """(prod(2 w - 1), H) for a window of `window` tokens per axis; an axis of length 1 has offset 0."""
        weight = self.first.weight
        offsets = relative_coordinates(window, weight.device).to(weight.dtype)
        longest = torch.tensor([float(max(side - 1, 1)) for side in window], device=weight.device, dtype=weight.dtype)
        scaled = offsets / longest * 8.0
        scaled = torch.sign(scaled) * torch.log2(scaled.abs() + 1.0) / 3.0  # log2(8)
        return 16.0 * torch.sigmoid(self.second(torch.relu(self.first(scaled))))


class ContinuousPosition(nn.Module):
    """Absolute position inside a window, added to the tokens: MLP((i - w // 2) / (w // 2)).

    Args:
        axes: number of spatial axes.
        width: channels of the tokens.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.axes = axes
        self.first, self.second = nn.Linear(axes, HIDDEN), nn.Linear(HIDDEN, width, bias=False)

    def forward(self, x: Tensor, window: List[int]) -> Tensor:
        """(B, X, Y, Z, C) plus the embedding, repeated over the windows of `window` tokens per axis."""
        columns: List[Tensor] = []
        grid: List[int] = list(x.shape[1:4])
        for axis in range(self.axes):
            side = window[axis]
            place = torch.arange(grid[axis], device=x.device) % side
            value = (place - side // 2).to(self.first.weight.dtype) / float(max(side // 2, 1))
            shape = [1, 1, 1]
            shape[axis] = grid[axis]
            columns.append(value.reshape(shape).expand(grid))
        return x + self.second(torch.relu(self.first(torch.stack(columns, dim=-1)))).to(x.dtype)
