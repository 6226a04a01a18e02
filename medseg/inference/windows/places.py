"""Where the windows of a volume lie and how much each of their voxels counts. Plain numbers; equal to MONAI's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

# MONAI's and nnU-Net's default: sigma of the Gaussian, as a share of the window.
SIGMA_SCALE = 0.125
# MONAI clamps the map here, so that a voxel seen only by a window's corner is still divided by something sensible.
SMALLEST_WEIGHT = 1e-3


def per_axis(value: Sequence[float] | float, axes: int, name: str) -> tuple[float, ...]:
    """One value per axis from a number or a sequence of the right length."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"{name}={value}: expected one number or {axes} of them, one per spatial axis")
    return values


def window_size(roi_size: Sequence[int | None] | int, shape: Sequence[int]) -> tuple[int, ...]:
    """Extent of the windows; None, 0 or a negative number stands for the whole axis."""
    sizes = per_axis(roi_size, len(shape), "roi_size")  # type: ignore[arg-type]
    return tuple(int(size) if size and size > 0 else int(whole) for size, whole in zip(sizes, shape, strict=True))


def padding(shape: Sequence[int], roi_size: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis that is shorter than the window; the odd one goes after."""
    missing = [max(roi - size, 0) for size, roi in zip(shape, roi_size, strict=True)]
    return [(m // 2, m - m // 2) for m in missing]


def axis_starts(size: int, roi: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; the last one is moved back to end with the axis.

    Args:
        size: voxels of the axis, at least `roi`.
        roi: voxels of the window.
        overlap: shared fraction of neighbours, 0 <= overlap < 1.

    Example:
        >>> axis_starts(10, 4, 0.5)
        [0, 2, 4, 6]
        >>> axis_starts(9, 4, 0.5)
        [0, 2, 4, 5]
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap}: expected a fraction of the window, 0 <= overlap < 1")
    step = roi if size == roi else max(int(roi * (1 - overlap)), 1)
    count = math.ceil(max(size - roi, 0) / step) + 1
    return [min(index * step, size - roi) for index in range(count)]


def even_starts(size: int, roi: int, overlap: float) -> list[int]:
    """As `axis_starts`, but with equal steps, each at most `roi * (1 - overlap)`: nnU-Net's windows.

    Example:
        >>> even_starts(110, 64, 0.5)
        [0, 23, 46]
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap}: expected a fraction of the window, 0 <= overlap < 1")
    count = math.ceil((size - roi) / (roi * (1 - overlap))) + 1
    step = (size - roi) / max(count - 1, 1)
    return [round(step * index) for index in range(count)]


def window_starts(
    shape: Sequence[int], roi_size: Sequence[int], overlap: Sequence[float], *, placement: str = "regular"
) -> list[tuple[int, ...]]:
    """First voxels of all windows, the last axis fastest; `regular` or `even` ones."""
    place = even_starts if placement == "even" else axis_starts
    return list(itertools.product(*(place(*axis) for axis in zip(shape, roi_size, overlap, strict=True))))


def importance_map(
    roi_size: Sequence[int], mode: str = "gaussian", sigma_scale: Sequence[float] | float = SIGMA_SCALE
) -> torch.Tensor:
    """How much each voxel of a window counts where windows overlap.

    Args:
        roi_size: extent of the window.
        mode: `gaussian` (the centre counts most), `constant`, or `nnunet` (a Gaussian cut at four sigma).
        sigma_scale: standard deviation as a share of the window's extent.

    Returns:
        `roi_size` float32, values in [1e-3, 1].
    """
    if mode not in ("gaussian", "constant", "nnunet"):
        raise ValueError(f"mode={mode!r}: expected 'gaussian', 'constant' or 'nnunet'")
    weights = torch.ones(tuple(roi_size))
    if mode == "constant":
        return weights
    sigmas = per_axis(sigma_scale, len(roi_size), "sigma_scale")
    for axis, (size, share) in enumerate(zip(roi_size, sigmas, strict=True)):
        centre = (size - 1) / 2.0 if mode == "gaussian" else size // 2
        offset = torch.arange(size, dtype=torch.float32) - centre
        profile = torch.exp(offset**2 / (-2 * (share * size) ** 2))
        if mode == "nnunet":
            profile[offset.abs() > int(4.0 * share * size + 0.5)] = 0.0
        weights = weights * profile.reshape([-1 if a == axis else 1 for a in range(len(roi_size))])
    if mode == "nnunet":
        # nnU-Net keeps the map in float16, ten times larger, where its smallest values vanish
        weights = (10.0 * weights).half().float()
        weights[weights == 0] = weights[weights > 0].min()
        return weights
    return weights.clamp_(min=max(float(weights.min()), SMALLEST_WEIGHT))
