"""Operators for 3D volumes with a GPU (triton), a compiled CPU and a readable reference form each. Public names only."""

from .window_attention import relative_coordinates, window_attention, window_attention_with_carriers, window_grid

__all__ = [
    "relative_coordinates",
    "window_attention",
    "window_attention_with_carriers",
    "window_grid",
]
