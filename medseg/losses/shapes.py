"""Losses of a label's shape beside Dice and cross-entropy: its centre line, its skeleton, its surface.

Sources: clDice, Shit et al. 2021, by MONAI's `SoftclDiceLoss`; skeleton recall, Kirchhoff et al. 2024; boundary loss,
Kervadec et al. 2019.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .dice_ce import DiceCELoss, over_declared
from .over_ranks import mean_of_processes, summed


class ShapeLoss(DiceCELoss, ABC):
    """Dice, cross-entropy, and a term of shape; the term's formula is a subclass's.

    Args:
        shape_weight: factor of the term.
        settings: of `DiceCELoss`.
    """

    def __init__(self, *, shape_weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.shape_weight = shape_weight

    def _regional(self, log_probabilities: Tensor, target: Tensor, valid: Tensor, present: Tensor | None) -> Tensor:
        overlap = super()._regional(log_probabilities, target, valid, present)
        counted = (
            valid[:, None].to(log_probabilities.dtype).repeat(1, log_probabilities.shape[1], *[1] * (valid.ndim - 1))
        )
        if present is not None:
            counted = counted * present.to(counted.dtype).view(*present.shape, *[1] * (valid.ndim - 1))
        truth = F.one_hot(target, log_probabilities.shape[1]).movedim(-1, 1).to(counted.dtype)
        # the background has no shape of its own
        probabilities, truth, counted = (part[:, 1:] for part in (log_probabilities.exp(), truth, counted))
        return overlap + self.shape_weight * self._shape(probabilities, truth * counted, counted)

    @abstractmethod
    def _shape(self, probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        """The term of foreground labels: all (B, K - 1, *space), `counted` zero where nothing is known."""


class DiceCLDiceLoss(ShapeLoss):
    """One minus the soft Dice of centre lines: a tube that is broken costs, however thin it is.

    Args:
        iterations: erosions; about the largest radius of a tube in voxels.
        settings: of `ShapeLoss`.
    """

    def __init__(self, *, iterations: int = 3, **settings: Any) -> None:
        super().__init__(**settings)
        from monai.losses import SoftclDiceLoss

        self.centre_lines = SoftclDiceLoss(iter_=iterations)

    def _shape(self, probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        found: Tensor = self.centre_lines(probabilities * counted, truth)  # a mean over samples
        return mean_of_processes(found)


class DiceSkeletonLoss(ShapeLoss):
    """One minus the recall of the thickened skeleton of each label: only the reference is thinned, which is cheap.

    Args:
        iterations: erosions; at least the largest radius of a tube in voxels.
        radius: voxels by which the skeleton is thickened, inside its label.
        settings: of `ShapeLoss`.
    """

    def __init__(self, *, iterations: int = 10, radius: int = 2, **settings: Any) -> None:
        super().__init__(**settings)
        self.iterations, self.radius = iterations, radius

    def _shape(self, probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        skeleton = self.skeleton(truth)
        space = tuple(range(2, truth.ndim))
        hit_BK, all_BK = (probabilities * skeleton).sum(space), skeleton.sum(space)
        if self.batch_dice:
            hit_BK, all_BK = summed(hit_BK.sum(0, keepdim=True), all_BK.sum(0, keepdim=True))
        there = (all_BK > 0).to(hit_BK.dtype)
        return over_declared(1 - hit_BK / all_BK.clamp(min=1), there, of_batch=self.batch_dice)

    @torch.no_grad()
    def skeleton(self, truth: Tensor) -> Tensor:
        """The morphological skeleton of each mask (B, K, *space), thickened inside the mask."""
        from monai.losses.cldice import soft_skel

        thin = (soft_skel(truth, self.iterations) > 0).to(truth.dtype)
        pool = F.max_pool2d if truth.ndim == 4 else F.max_pool3d
        width = 2 * self.radius + 1
        return pool(thin, width, 1, self.radius) * truth


class DiceBoundaryLoss(ShapeLoss):
    """The mean of probability times signed distance to the reference's surface, in voxels: what lies far outside costs most.

    Args:
        shape_weight: distances are large numbers, so this is small.
        settings: of `DiceCELoss`.
    """

    def __init__(self, *, shape_weight: float = 0.01, **settings: object) -> None:
        super().__init__(shape_weight=shape_weight, **settings)

    def _shape(self, probabilities: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        total, count = summed((probabilities * signed_distance(truth) * counted).sum(), counted.sum())
        return total / count.clamp(min=1)


@torch.no_grad()
def signed_distance(masks: Tensor) -> Tensor:
    """Distance to each mask's surface, positive outside, 0 on its outermost voxels, negative inside; 0 all over for none.

    Args:
        masks: (B, K, *space) of 0 and 1.
    """
    from monai.transforms.utils import distance_transform_edt

    maps = torch.zeros_like(masks)
    for case, of_case in zip(masks, maps, strict=True):
        for mask, of_mask in zip(case, of_case, strict=True):
            if mask.any():
                outside = torch.as_tensor(distance_transform_edt(1 - mask[None]))[0]
                inside = torch.as_tensor(distance_transform_edt(mask[None]))[0]
                of_mask.copy_(outside - (inside - 1).clamp(min=0))
    return maps
