"""Changes of the voxel values of one channel, in place, on any device: torch only, and nothing random but the noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BLUR_REACH = 4.0  # kernel half-width in standard deviations; what is cut off weighs 6e-5
_EPSILON = 1e-7


def add_noise(channel: Tensor, std: float, seed: int) -> None:
    """Add Gaussian noise; the same seed gives the same noise on every device (it is drawn by numpy's Philox)."""
    generator = np.random.Generator(np.random.Philox(seed))
    noise = generator.standard_normal(tuple(channel.shape), dtype=np.float32)
    channel.add_(torch.from_numpy(noise).to(channel.device), alpha=std)


def blur(channel: Tensor, sigma: float) -> None:
    """Gaussian smoothing of (X, Y, Z) by `sigma` voxels, one axis after the other; edge voxels are repeated."""
    radius = max(1, math.ceil(BLUR_REACH * sigma - 0.5))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis, length in enumerate(channel.shape):
        if length == 1:
            continue
        first, last = channel.narrow(axis, 0, 1), channel.narrow(axis, length - 1, 1)
        border = [radius if a == axis else -1 for a in range(channel.ndim)]
        padded = torch.cat((first.expand(border), channel, last.expand(border)), dim=axis)
        channel.mul_(weights[0] / total)
        for i in range(1, radius + 1):
            for start in (radius - i, radius + i):
                channel.add_(padded.narrow(axis, start, length), alpha=weights[i] / total)


def stretch_contrast(channel: Tensor, factor: float) -> None:
    """Stretch about the mean, then clip to the range that the channel had."""
    low, high = torch.aminmax(channel)
    mean = channel.mean()
    channel.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def lose_resolution(channel: Tensor, zoom: float) -> None:
    """Keep every 1/zoom-th voxel of (X, Y, Z) and interpolate linearly back to the full grid."""
    grid = tuple(channel.shape)
    coarse = tuple(max(1, round(n * zoom)) for n in grid)
    small = functional.interpolate(channel[None, None], coarse, mode="nearest-exact")
    channel.copy_(functional.interpolate(small, grid, mode="trilinear", align_corners=False)[0, 0])


def change_gamma(channel: Tensor, gamma: float, *, inverted: bool = False) -> None:
    """Raise to a power within the channel's own range; mean and standard deviation stay as they were.

    Args:
        channel: (X, Y, Z), changed in place.
        gamma: exponent; above 1 dark values are compressed.
        inverted: do it to the inverted image.
    """
    if inverted:
        channel.neg_()
    std, mean = torch.std_mean(channel, correction=0)
    low, high = torch.aminmax(channel)
    channel.sub_(low).div_((high - low).clamp_min(_EPSILON)).clamp_(0, 1).pow_(gamma)
    new_std, new_mean = torch.std_mean(channel, correction=0)
    channel.sub_(new_mean).mul_(std / new_std.clamp_min(_EPSILON)).add_(mean)
    if inverted:
        channel.neg_()
