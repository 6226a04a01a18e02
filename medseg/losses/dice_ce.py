"""Soft Dice plus cross-entropy, for label maps that may be partial.

Source: the sum of batch Dice and cross-entropy is nnU-Net's loss (Isensee et al. 2021); the merging of undeclared
labels into the background is the marginal loss of Shi et al. 2021 ("Marginal loss and exclusion loss").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .over_ranks import largest, summed

IGNORE = -1


class DiceCELoss(nn.Module):
    """Mean soft Dice loss over the foreground labels plus mean cross-entropy over the voxels.

    Args:
        dice_weight: factor of the Dice term.
        ce_weight: factor of the cross-entropy term.
        ignore: target value whose voxels count in neither term.
        batch_dice: add up the overlap over the batch before the ratio, instead of one ratio per sample. With small
            crops many samples lack a label; the batch rarely does.
        smooth: added to numerator and denominator of the ratio, in voxels; a label absent from target and prediction
            then costs nothing.
        label_smoothing: share of a voxel's target that is spread evenly over the declared labels, in [0, 1); of the
            cross-entropy only.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        ignore: int = IGNORE,
        batch_dice: bool = True,
        smooth: float = 1e-5,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected at least 0 and below 1")
        self.label_smoothing = label_smoothing
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore, self.batch_dice, self.smooth = ignore, batch_dice, smooth

    def forward(self, logits: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            logits: (B, K, *space), before softmax.
            target: (B, 1, *space) or (B, *space), integers in [0, K) or `ignore`.
            present: (B, K) boolean, which labels each sample's annotation declares; a label it does not declare may be
                anywhere in its background, so its probability is added to the background's. None: all are declared.

        Returns:
            A scalar in float32, or in float64 for such logits; with several processes inside `over_ranks.whole_batch` it is
            the loss of the batch of all of them.

        Raises:
            ValueError: shapes do not fit.
        """
        if target.ndim == logits.ndim:
            target = target[:, 0]
        if target.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(f"target of shape {tuple(target.shape)} does not fit logits {tuple(logits.shape)}")
        logits = at_least_float(logits)
        valid = target != self.ignore
        target = torch.where(valid, target, torch.zeros_like(target)).long()
        if present is not None:
            logits = merge_undeclared(logits, present)
        log_probabilities = F.log_softmax(logits, dim=1)
        ce = -log_probabilities.gather(1, target[:, None])[:, 0]
        if self.label_smoothing:
            ce = (1 - self.label_smoothing) * ce + self.label_smoothing * evenly(log_probabilities, present)
        regional = self._regional(log_probabilities, target, valid, present)
        return self.ce_weight * self._over_voxels(ce, valid) + regional

    def _regional(self, log_probabilities: Tensor, target: Tensor, valid: Tensor, present: Tensor | None) -> Tensor:
        """The terms that look at whole labels, with their factors."""
        if not self.dice_weight:
            return log_probabilities.new_zeros(())
        return self.dice_weight * self._dice(log_probabilities.exp(), target, valid, present)

    def _over_voxels(self, ce: Tensor, valid: Tensor) -> Tensor:
        """One number of the cross-entropy of every voxel, (B, *space)."""
        total, count = summed(per_sample(ce * valid).sum(), valid.sum().to(ce.dtype))
        return total / count.clamp(min=1)

    def _dice(self, probabilities: Tensor, target: Tensor, valid: Tensor, present: Tensor | None) -> Tensor:
        K = probabilities.shape[1]
        space = tuple(range(2, probabilities.ndim))
        truth = F.one_hot(target, K).movedim(-1, 1) * valid[:, None]
        probabilities = probabilities * valid[:, None]
        overlap_BK = (probabilities * truth).sum(space)[:, 1:]
        size_BK = (probabilities.sum(space) + truth.sum(space))[:, 1:]
        declared_BK = torch.ones_like(overlap_BK) if present is None else present[:, 1:].to(overlap_BK.dtype)
        overlap_BK, size_BK = overlap_BK * declared_BK, size_BK * declared_BK
        if self.batch_dice:
            overlap_BK, size_BK = overlap_BK.sum(0, keepdim=True), size_BK.sum(0, keepdim=True)
            declared_BK = declared_BK.amax(0, keepdim=True)
            overlap_BK, size_BK = summed(overlap_BK, size_BK)
        ratio = (2 * overlap_BK + self.smooth) / (size_BK + self.smooth)
        return over_declared(1 - ratio, declared_BK, of_batch=self.batch_dice)


def at_least_float(logits: Tensor) -> Tensor:
    """float32, or float64 where the training is."""
    return logits if logits.dtype == torch.float64 else logits.float()


def evenly(log_probabilities: Tensor, present: Tensor | None) -> Tensor:
    """(B, *space): cross-entropy against equal shares of the labels that a sample declares, background included."""
    if present is None:
        return -log_probabilities.mean(dim=1)
    declared = present.to(torch.bool).clone()
    declared[:, 0] = True
    declared = declared.view(*declared.shape, *([1] * (log_probabilities.ndim - 2)))
    return -log_probabilities.masked_fill(~declared, 0.0).sum(dim=1) / declared.sum(dim=1)


def per_sample(values: Tensor) -> Tensor:
    """(B,): sums of (B, ...). A sample's own sum does not depend on how many others are in the process."""
    return values.flatten(1).sum(1)


def over_declared(costs: Tensor, declared: Tensor, *, of_batch: bool) -> Tensor:
    """The mean cost of the labels that are declared.

    Args:
        costs, declared: (B, K), or (1, K) where the batch was added up.
        of_batch: every process holds the whole batch's costs already.
    """
    if of_batch:
        declared = largest(declared)
        return (costs * declared).sum() / declared.sum().clamp(min=1)
    total, count = summed((costs * declared).sum(), declared.sum())
    return total / count.clamp(min=1)


def merge_undeclared(logits: Tensor, present: Tensor) -> Tensor:
    """Give the background the probability of the labels that a sample does not declare."""
    present = present.to(torch.bool).clone()
    present[:, 0] = True
    shape = (*present.shape, *([1] * (logits.ndim - 2)))
    lowest = torch.finfo(logits.dtype).min
    kept = present.view(shape)
    in_background = ~kept
    in_background[:, 0] = True
    background = logits.masked_fill(~in_background, lowest).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(~kept[:, 1:], lowest)], dim=1)
