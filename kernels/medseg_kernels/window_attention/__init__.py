"""Attention inside the windows of a 3D grid, by index arithmetic: no partition, roll, mask or score matrix in memory."""

from .api import explain_backend, window_attention, window_attention_with_carriers, window_grid
from .windows import relative_coordinates

__all__ = [
    "explain_backend",
    "relative_coordinates",
    "window_attention",
    "window_attention_with_carriers",
    "window_grid",
]
