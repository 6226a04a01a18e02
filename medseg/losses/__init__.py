"""Losses of the training step, by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from .deep_supervision import DeepSupervisionLoss
from .dice_bce import DiceBCELoss
from .dice_ce import DiceCELoss
from .others import OtherLoss
from .shapes import DiceBoundaryLoss, DiceCLDiceLoss, DiceSkeletonLoss
from .variants import CELoss, DiceFocalLoss, DiceTopKLoss, TverskyCELoss

# Called with settings by name; the module is called with (logits, target, present), see `DiceCELoss`.
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "dice_ce": DiceCELoss,
    "dice_bce": DiceBCELoss,
    "ce": CELoss,
    "dice_focal": DiceFocalLoss,
    "dice_topk": DiceTopKLoss,
    "dice_cldice": DiceCLDiceLoss,
    "dice_skeleton": DiceSkeletonLoss,
    "dice_boundary": DiceBoundaryLoss,
    "tversky_ce": TverskyCELoss,
    "focal": partial(DiceFocalLoss, dice_weight=0.0),
    "topk": partial(DiceTopKLoss, dice_weight=0.0),
    "tversky": partial(TverskyCELoss, ce_weight=0.0),
}

__all__ = [
    "LOSSES",
    "CELoss",
    "DeepSupervisionLoss",
    "DiceBCELoss",
    "DiceBoundaryLoss",
    "DiceCELoss",
    "DiceCLDiceLoss",
    "DiceFocalLoss",
    "DiceSkeletonLoss",
    "DiceTopKLoss",
    "OtherLoss",
    "TverskyCELoss",
]
