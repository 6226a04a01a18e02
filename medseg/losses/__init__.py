"""Losses of the training step, by name."""

from .deep_supervision import DeepSupervisionLoss
from .dice_bce import DiceBCELoss
from .dice_ce import DiceCELoss

LOSSES = {"dice_ce": DiceCELoss, "dice_bce": DiceBCELoss}

__all__ = ["LOSSES", "DeepSupervisionLoss", "DiceBCELoss", "DiceCELoss"]
