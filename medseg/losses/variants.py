"""Losses that people expect by name, each with the partial labels and ignored voxels of `DiceCELoss`.

Sources: focal loss, Lin et al. 2017; Tversky loss, Salehi et al. 2017; top-k cross-entropy, Wu et al. 2016.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .dice_ce import DiceCELoss, over_declared
from .over_ranks import kth_largest, processes, summed


class CELoss(DiceCELoss):
    """Mean cross-entropy over the voxels, alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(dice_weight=0.0, **settings)


class DiceFocalLoss(DiceCELoss):
    """Soft Dice plus the focal loss: voxels that are right already count less.

    Args:
        gamma: power of the probability that is missing; 0 is cross-entropy.
        settings: of `DiceCELoss`.
    """

    def __init__(self, *, gamma: float = 2.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.gamma = gamma

    def _over_voxels(self, ce: Tensor, valid: Tensor) -> Tensor:
        missing = (1 - torch.exp(-ce)).clamp(min=torch.finfo(ce.dtype).tiny)  # the gradient of 0 to a power is infinite
        return super()._over_voxels(missing**self.gamma * ce, valid)


class DiceTopKLoss(DiceCELoss):
    """Soft Dice plus the mean cross-entropy over the worst voxels of the batch.

    Args:
        share: of the voxels that count, the worst ones, in (0, 1].
        settings: of `DiceCELoss`.
    """

    def __init__(self, *, share: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; expected above 0 and at most 1")
        self.share = share

    def _over_voxels(self, ce: Tensor, valid: Tensor) -> Tensor:
        counted = ce[valid]
        if processes() > 1:
            return self._over_all(counted)
        if not counted.numel():
            return ce.sum() * 0.0
        return counted.topk(max(1, round(self.share * counted.numel()))).values.mean()

    def _over_all(self, counted: Tensor) -> Tensor:
        """The same of all processes: what lies above the k-th largest value, and its equals by their share."""
        count = int(summed(torch.tensor(float(counted.numel()), dtype=torch.float64, device=counted.device))[0])
        k = max(1, round(self.share * count))
        edge = kth_largest(counted, k)
        above, equal = counted > edge, counted == edge
        total, tied, more, ties = summed(
            (counted * above).sum(),
            (counted * equal).sum(),
            above.sum().to(counted.dtype),
            equal.sum().to(counted.dtype),
        )
        return (total + tied * (k - more) / ties.clamp(min=1)) / k


class TverskyCELoss(DiceCELoss):
    """One minus the Tversky index, which weighs what is missed and what is too much differently, plus cross-entropy.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; above `alpha` it finds more of small structures. Both 0.5 are the Dice.
        settings: of `DiceCELoss`.
    """

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, **settings: Any) -> None:
        super().__init__(**settings)
        self.alpha, self.beta = alpha, beta

    def _dice(self, probabilities: Tensor, target: Tensor, valid: Tensor, present: Tensor | None) -> Tensor:
        space = tuple(range(2, probabilities.ndim))
        truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1) * valid[:, None]
        probabilities = probabilities * valid[:, None]
        hit_BK = (probabilities * truth).sum(space)[:, 1:]
        extra_BK = (probabilities * (1 - truth)).sum(space)[:, 1:]
        missed_BK = ((1 - probabilities) * truth).sum(space)[:, 1:]
        declared_BK = torch.ones_like(hit_BK) if present is None else present[:, 1:].to(hit_BK.dtype)
        parts = [part * declared_BK for part in (hit_BK, extra_BK, missed_BK)]
        if self.batch_dice:
            parts = list(summed(*[part.sum(0, keepdim=True) for part in parts]))
            declared_BK = declared_BK.amax(0, keepdim=True)
        hit, extra, missed = parts
        index = (hit + self.smooth) / (hit + self.alpha * extra + self.beta * missed + self.smooth)
        return over_declared(1 - index, declared_BK, of_batch=self.batch_dice)
