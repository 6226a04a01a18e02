"""Windows of logits added up, weighted, into a whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


class Accumulator:
    """Weighted sum of one output of the network over all windows, and its division by the weights' sum at the end."""

    def __init__(
        self,
        output: torch.Tensor,
        batch: int,
        shape: Sequence[int],
        roi: tuple[int, ...],
        weights: torch.Tensor,
        device: torch.device,
    ) -> None:
        self.roi = tuple(output.shape[2:])
        self.scale = [out / size for out, size in zip(self.roi, roi, strict=True)]
        if self.roi != roi:
            weights = functional.interpolate(weights[None, None], self.roi, mode="nearest-exact")[0, 0]
        self.weights = weights.to(device)
        whole = [int(size * factor) for size, factor in zip(shape, self.scale, strict=True)]
        self.sum = torch.zeros((batch, output.shape[1], *whole), dtype=torch.float32, device=device)

    def _box(self, start: tuple[int, ...]) -> tuple[slice, ...]:
        firsts = (int(first * factor) for first, factor in zip(start, self.scale, strict=True))
        return tuple(slice(first, first + size) for first, size in zip(firsts, self.roi, strict=True))

    def add(self, output: torch.Tensor, places: list[tuple[int, tuple[int, ...]]]) -> None:
        for window, (sample, start) in zip(output, places, strict=True):
            values = window.as_subclass(torch.Tensor).to(self.sum.device, torch.float32)
            self.sum[sample][(slice(None), *self._box(start))].addcmul_(values, self.weights)

    def finish(
        self, starts: list[tuple[int, ...]], pads: list[tuple[int, int]], shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        total = torch.zeros(self.sum.shape[2:], device=self.sum.device)
        for start in starts:
            total[self._box(start)] += self.weights
        self.sum /= total
        inner = [
            slice(round(before * factor), round((before + size) * factor))
            for (before, _), size, factor in zip(pads, shape, self.scale, strict=True)
        ]
        return self.sum[(slice(None), slice(None), *inner)].to(dtype)
