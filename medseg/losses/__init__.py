"""Losses of the training step, by name."""

from torch import nn

from .deep_supervision import DeepSupervisionLoss
from .dice_bce import DiceBCELoss
from .dice_ce import DiceCELoss
from .variants import CELoss, DiceFocalLoss, DiceTopKLoss, TverskyCELoss

LOSSES: dict[str, type[nn.Module]] = {
    "dice_ce": DiceCELoss,
    "dice_bce": DiceBCELoss,
    "ce": CELoss,
    "dice_focal": DiceFocalLoss,
    "dice_topk": DiceTopKLoss,
    "tversky_ce": TverskyCELoss,
}

__all__ = [
    "LOSSES",
    "CELoss",
    "DeepSupervisionLoss",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceTopKLoss",
    "TverskyCELoss",
]
