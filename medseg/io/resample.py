"""A volume's content on another grid, by world position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from .geometry import HasGrid
    from .header import Volume


def resample_to_grid(volume: Volume, like: HasGrid, mode: Literal["linear", "nearest"]) -> Volume:
    """The volume's content on another grid, by world position.

    Args:
        volume: (C, X, Y, Z) or (X, Y, Z).
        like: what gives the new grid.
        mode: "linear" for images, "nearest" for label maps.

    Returns:
        A Volume on the grid of `like`; voxels outside the source are 0 in a label map, the channel's minimum in an image.

    Raises:
        ValueError: another mode.
    """
    from scipy import ndimage

    if mode not in ("linear", "nearest"):
        raise ValueError(f"mode is {mode!r}, expected 'linear' or 'nearest'.")
    step = np.linalg.inv(volume.affine) @ like.affine
    channels = volume.array if volume.array.ndim == 4 else volume.array[None]
    result = np.empty((len(channels), *like.grid), dtype=volume.array.dtype)
    for source, target in zip(channels, result, strict=True):
        settings: dict[str, Any] = {"matrix": step[:3, :3], "offset": step[:3, 3], "output_shape": tuple(like.grid)}
        if mode == "nearest":
            # grid-constant: the outermost half voxel belongs to its voxel instead of to the outside
            ndimage.affine_transform(source, output=target, order=0, mode="grid-constant", cval=0, **settings)
        else:
            outside = float(source.min())
            ndimage.affine_transform(source, output=target, order=1, mode="grid-constant", cval=outside, **settings)
    return volume.on_grid_of(result if volume.array.ndim == 4 else result[0], like)
