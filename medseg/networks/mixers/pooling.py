"""Adaptive pooling and cubic resizing as one small product per axis: torch's numbers, in any number of axes, and in ONNX."""

from typing import List

import torch
from torch import Tensor


def adaptive_mean(image: Tensor, parts: List[int]) -> Tensor:
    """Means of `parts` boxes per axis, box i of n voxels and p parts from floor(i n / p) to ceil((i + 1) n / p).

    Args:
        image: (B, C, X, Y[, Z]).
        parts: boxes per axis.

    Returns:
        (B, C, *parts).
    """
    for axis, count in enumerate(parts):
        length = image.shape[axis + 2]
        if length != count:
            box = torch.arange(count, device=image.device).unsqueeze(1)
            voxel = torch.arange(length, device=image.device)
            inside = (voxel >= box * length // count) & (voxel < ((box + 1) * length + count - 1) // count)
            weights = inside.to(image.dtype) / inside.sum(1, keepdim=True).to(image.dtype)
            image = torch.matmul(image.transpose(axis + 2, -1), weights.t()).transpose(axis + 2, -1)
    return image.contiguous()


SHARPNESS = -0.75  # of the cubic kernel, as in torch's bicubic interpolation


def cubic(image: Tensor, grid: List[int]) -> Tensor:
    """Cubic interpolation to `grid`, axis by axis; voxel centres as in torch with align_corners=False, edges repeated.

    Args:
        image: (B, C, X, Y[, Z]).
        grid: voxels per axis.

    Returns:
        (B, C, *grid). In two dimensions the numbers of torch's bicubic interpolation.
    """
    for axis, count in enumerate(grid):
        length = image.shape[axis + 2]
        if length != count:
            place = (torch.arange(count, device=image.device, dtype=torch.float64) + 0.5) * length / count - 0.5
            first = place.floor()
            weights = torch.zeros(count, length, device=image.device, dtype=torch.float64)
            for tap in range(-1, 3):
                source = (first + tap).clamp(0, length - 1).to(torch.int64).unsqueeze(1)
                weights = weights.scatter_add(1, source, _cubic_weight((place - first - tap).abs()).unsqueeze(1))
            image = torch.matmul(image.transpose(axis + 2, -1), weights.t().to(image.dtype)).transpose(axis + 2, -1)
    return image.contiguous()


def _cubic_weight(distance: Tensor) -> Tensor:
    """Keys' kernel at a distance in [0, 2]."""
    near = ((SHARPNESS + 2.0) * distance - (SHARPNESS + 3.0)) * distance * distance + 1.0
    far = ((SHARPNESS * distance - 5.0 * SHARPNESS) * distance + 8.0 * SHARPNESS) * distance - 4.0 * SHARPNESS
    return torch.where(distance <= 1.0, near, far)
