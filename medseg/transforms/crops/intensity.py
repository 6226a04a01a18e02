"""Changes of the voxel values of one channel, in place, on any device; nothing random but the noise.

`change_gamma` and `stretch_contrast` come straight from the kernels: compiled on a CPU, torch elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import change_gamma, stretch_contrast, symmetric_filter

__all__ = ["add_noise", "blur", "change_gamma", "lose_resolution", "stretch_contrast"]

BLUR_REACH = 4.0  # kernel half-width in standard deviations; what is cut off weighs 6e-5


def add_noise(channel: Tensor, std: float, seed: int) -> None:
    """Add Gaussian noise; the same seed gives the same noise on every device (it is drawn by numpy's Philox)."""
    generator = np.random.Generator(np.random.Philox(seed))
    noise = generator.standard_normal(tuple(channel.shape), dtype=np.float32)
    channel.add_(torch.from_numpy(noise).to(channel.device), alpha=std)


def blur(channel: Tensor, sigma: float) -> None:
    """Gaussian smoothing of (X, Y, Z) by `sigma` voxels; edge voxels are repeated, axes of length 1 left alone."""
    radius = max(1, math.ceil(BLUR_REACH * sigma - 0.5))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    symmetric_filter(channel, [weight / total for weight in weights])


def lose_resolution(channel: Tensor, zoom: float) -> None:
    """Keep every 1/zoom-th voxel of (X, Y, Z) and interpolate linearly back to the full grid."""
    grid = tuple(channel.shape)
    coarse = tuple(max(1, round(n * zoom)) for n in grid)
    small = functional.interpolate(channel[None, None], coarse, mode="nearest-exact")
    channel.copy_(functional.interpolate(small, grid, mode="trilinear", align_corners=False)[0, 0])
