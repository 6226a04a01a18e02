"""One loss over logits of several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss over logits from fine to coarse, the target sampled down to each.

    Args:
        loss: called as `loss(logits, target, present)`.
        decay: weight of a scale relative to the next finer one; weights are normalised to a sum of 1. nnU-Net's is 0.5.
    """

    def __init__(self, loss: nn.Module, *, decay: float = 0.5) -> None:
        super().__init__()
        self.loss, self.decay = loss, decay

    def forward(self, scales: Sequence[Tensor], target: Tensor, present: Tensor | None = None) -> Tensor:
        """`scales`: logits (B, K, *space), finest first; `target`: (B, 1, *space) on the finest grid."""
        weights = [self.decay**level for level in range(len(scales))]
        total = sum(weights)
        terms = [
            weight / total * self.loss(logits, sample_down(target, logits.shape[2:]), present)
            for weight, logits in zip(weights, scales, strict=True)
        ]
        return torch.stack(terms).sum()


def sample_down(target: Tensor, grid: Sequence[int]) -> Tensor:
    """The label of the voxel nearest to each coarse voxel's centre; (B, 1, *space) -> (B, 1, *grid)."""
    for axis, size in enumerate(grid, start=2):
        fine = target.shape[axis]
        if fine != size:
            centres = (torch.arange(size, device=target.device) + 0.5) * (fine / size)
            target = target.index_select(axis, centres.long().clamp(max=fine - 1))
    return target
