"""Attention inside the windows of a 3D grid, by index arithmetic: no partition, roll, mask or score matrix in memory."""

from .geometry import relative_coordinates
from .op import explain_backend, window_attention, window_attention_with_carriers, window_grid

__all__ = [
    "explain_backend",
    "relative_coordinates",
    "window_attention",
    "window_attention_with_carriers",
    "window_grid",
]
