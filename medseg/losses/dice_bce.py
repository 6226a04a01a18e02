"""Soft Dice plus binary cross-entropy for outputs that may overlap: one sigmoid per region instead of one softmax.

Source: nnU-Net's loss for region-based training (Isensee et al. 2021, "nnU-Net for Brain Tumor Segmentation").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dice_ce import IGNORE, at_least_float, over_declared, per_sample
from .over_ranks import summed


class DiceBCELoss(nn.Module):
    """Mean soft Dice loss over the regions plus mean binary cross-entropy over regions and voxels.

    Args:
        regions: label values that each output unites; None: output i is label i.
        dice_weight, ce_weight: factors of the two terms.
        ignore: target value whose voxels count in neither term.
        batch_dice: add up the overlap over the batch before the ratio, see `DiceCELoss`.
        smooth: added to numerator and denominator of the ratio, in voxels.
    """

    def __init__(
        self,
        regions: Sequence[Sequence[int]] | None = None,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        ignore: int = IGNORE,
        batch_dice: bool = True,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.regions = None if regions is None else [tuple(int(value) for value in region) for region in regions]
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore, self.batch_dice, self.smooth = ignore, batch_dice, smooth

    def forward(self, logits: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            logits: (B, R, *space), before the sigmoid.
            target: (B, 1, *space) or (B, *space), label values or `ignore`.
            present: (B, K) boolean, which labels each sample's annotation declares; a region counts in the samples that
                declare all of its labels. None: all are declared.

        Returns:
            A scalar in float32, or in float64 for such logits; see `DiceCELoss`.

        Raises:
            ValueError: shapes do not fit.
        """
        if target.ndim == logits.ndim:
            target = target[:, 0]
        regions = self.regions or [(value,) for value in range(logits.shape[1])]
        if target.shape != (logits.shape[0], *logits.shape[2:]) or len(regions) != logits.shape[1]:
            raise ValueError(
                f"target of shape {tuple(target.shape)} and {len(regions)} regions do not fit logits {tuple(logits.shape)}"
            )
        logits = at_least_float(logits)
        truth = torch.stack([_inside(target, values) for values in regions], dim=1).to(logits.dtype)
        counted = (target != self.ignore)[:, None].to(logits.dtype).expand_as(truth)
        if present is not None:
            declared_BR = torch.stack([present[:, list(values)].all(dim=1) for values in regions], dim=1)
            counted = counted * declared_BR.to(logits.dtype).view(*declared_BR.shape, *[1] * (logits.ndim - 2))
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        total, count = summed(per_sample(bce * counted).sum(), counted.sum())
        return self.ce_weight * total / count.clamp(min=1) + self.dice_weight * self._dice(
            logits.sigmoid(), truth, counted
        )

    def _dice(self, probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        space = tuple(range(2, truth.ndim))
        overlap_BR = (probabilities * truth * counted).sum(space)
        size_BR = ((probabilities + truth) * counted).sum(space)
        declared_BR = counted.flatten(2).amax(dim=2)
        if self.batch_dice:
            overlap_BR, size_BR = overlap_BR.sum(0, keepdim=True), size_BR.sum(0, keepdim=True)
            declared_BR = declared_BR.amax(0, keepdim=True)
            overlap_BR, size_BR = summed(overlap_BR, size_BR)
        ratio = (2 * overlap_BR + self.smooth) / (size_BR + self.smooth)
        return over_declared(1 - ratio, declared_BR, of_batch=self.batch_dice)


def _inside(target: Tensor, values: Sequence[int]) -> Tensor:
    inside = target == values[0]
    for value in values[1:]:
        inside = inside | (target == value)
    return inside
