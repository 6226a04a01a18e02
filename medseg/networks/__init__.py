"""Segmentation networks: presets of one composable backbone, in 2D and 3D."""

from .build import build_network, no_weight_decay
from .mixers import MIXERS
from .presets import PRESETS

__all__ = ["MIXERS", "PRESETS", "build_network", "no_weight_decay"]
