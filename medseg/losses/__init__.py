"""Losses of the training step, by name."""

from .deep_supervision import DeepSupervisionLoss
from .dice_ce import DiceCELoss

LOSSES = {"dice_ce": DiceCELoss}

__all__ = ["LOSSES", "DeepSupervisionLoss", "DiceCELoss"]
