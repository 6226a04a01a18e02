"""Adaptive pooling as one small product per axis: the same numbers as torch's operator, which ONNX does not have."""

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
