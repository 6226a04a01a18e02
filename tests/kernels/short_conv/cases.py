"""Cases of the short convolution and their truth: a loop over tokens and taps, written apart from the implementation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.traversals.orders import Traversal


@dataclass(frozen=True)
class Case:
    """One call."""

    grid: tuple[int, int, int] = (3, 4, 5)
    traversals: tuple[str, ...] = ("raster",)
    mode: str = "causal"
    kernel: tuple[int, ...] = (4,)
    channels: int = 6
    bias: bool = True
    silu: bool = True

    @property
    def name(self) -> str:
        """What pytest shows."""
        return f"{self.mode}-{self.kernel}-{'+'.join(self.traversals)}-{self.grid}-C{self.channels}-{self.bias}-{self.silu}"

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None]:
        """x (B, N, C), weight (R, C, T), bias (R, C)."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.grid, self.channels, generator=generator, dtype=torch.float64).flatten(1, 3)
        taps = torch.Size(self.kernel).numel()
        weight = torch.randn(len(self.traversals), self.channels, taps, generator=generator, dtype=torch.float64)
        bias = torch.randn(len(self.traversals), self.channels, generator=generator, dtype=torch.float64)
        return x.to(dtype), weight.to(dtype), bias.to(dtype) if self.bias else None

    def neighbours(self, r: int, head: int) -> Tensor:
        """(N, T): the token that each tap of each token reads, or N."""
        size_x, size_y, size_z = self.grid
        total = size_x * size_y * size_z
        taps = torch.Size(self.kernel).numel()
        table = torch.full((total, taps), total)
        if self.mode == "grid":
            for token, (j, offset) in product(range(total), enumerate(product(*map(range, self.kernel)))):
                at = (token // (size_y * size_z), token // size_z % size_y, token % size_z)
                to = [a + o - (k - 1) // 2 for a, o, k in zip(at, offset, self.kernel, strict=True)]
                if all(0 <= t < side for t, side in zip(to, self.grid, strict=True)):
                    table[token, j] = (to[0] * size_y + to[1]) * size_z + to[2]
            return table
        traversal = Traversal.parse(self.traversals[r]).heads
        one = traversal[head % len(traversal)]
        order, pieces = one.order(self.grid).tolist(), one.pieces(self.grid)
        here = taps - 1 if self.mode == "causal" else (taps - 1) // 2
        for start, stop in pairwise(pieces):
            for step, j in product(range(start, stop), range(taps)):
                if start <= step + j - here < stop:
                    table[order[step], j] = order[step + j - here]
        return table

    def truth(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, R, N, C), differentiable."""
        padded, outs = torch.cat([x, torch.zeros_like(x[:, :1])], 1), []
        for r in range(len(self.traversals)):
            heads = len(Traversal.parse(self.traversals[r]).heads)
            width = self.channels // heads
            parts = []
            for h in range(heads):
                c = slice(h * width, (h + 1) * width)
                taps = padded[:, self.neighbours(r, h)][..., c]  # (B, N, T, C)
                parts.append((taps * weight[r, c].T).sum(2))
            y = torch.cat(parts, -1)
            y = y if bias is None else y + bias[r]
            outs.append(functional.silu(y) if self.silu else y)
        return torch.stack(outs, 1)


CASES = (
    Case(),
    Case(bias=False, silu=False, mode="same", kernel=(3,)),
    Case(grid=(1, 1, 1), channels=1, kernel=(7,)),
    Case(grid=(1, 13, 7), channels=17, kernel=(2,), traversals=("snake", "reversed raster:ZYX")),
    Case(grid=(5, 3, 4), mode="same", kernel=(4,), traversals=("hilbert", "windowed:2,2,3:snake", "raster")),
    Case(grid=(3, 4, 4), channels=12, traversals=("heads(raster; morton; windowed:2,2,2)",)),
    Case(grid=(5, 4, 3), mode="grid", kernel=(3, 3, 3)),
    Case(grid=(1, 6, 5), mode="grid", kernel=(1, 2, 5), bias=False),
)
