"""Resample arrays between two grids that share their outer edges: images linearly, label maps by a vote of the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medseg.types import ImageCXYZ


def axis_weights(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Linear interpolation along one axis: target value = (1 - w) * source[first] + w * source[second].

    Both grids cover the same length, edge to edge; beyond the outer voxel centres the outer value is kept. The positions
    are those of `torch.nn.functional.interpolate(align_corners=False)`.

    Example:
        >>> axis_weights(2, 4)[2].tolist()
        [0.0, 0.25, 0.75, 0.0]
    """
    position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.floor(position).astype(np.int64)
    second = np.minimum(first + 1, source - 1)
    return first, second, (position - first).astype(np.float32)


def resample_image(image: ImageCXYZ, shape: Sequence[int]) -> ImageCXYZ:
    """Linear resampling of (C, X, Y, Z) float32 to another number of voxels over the same extent.

    Returns:
        (C, *shape) float32; the input itself when the shape is already right.
    """
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    result = np.empty((image.shape[0], *shape), dtype=np.float32)
    for channel in range(image.shape[0]):  # one at a time: the temporary stays small
        source = torch.from_numpy(np.ascontiguousarray(image[channel], dtype=np.float32))[None, None]
        resampled = functional.interpolate(source, size=tuple(shape), mode="trilinear", align_corners=False)
        result[channel] = resampled[0, 0].numpy()
    return result


def resample_in_memory_order(channel: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """`resample_image` of one channel (X, Y, Z) whose memory may have any order of axes, without copying it first."""
    order = sorted(range(3), key=lambda axis: -abs(channel.strides[axis]))
    resampled = resample_image(channel.transpose(order)[None], [shape[axis] for axis in order])[0]
    return resampled.transpose(np.argsort(order))


def _interpolate_box(mask: NDArray[np.float32], low: list[int], high: list[int], weights: list) -> NDArray[np.float32]:
    """Linear interpolation of a cut-out: `mask` begins at `low` in the source, the target box is per axis in `weights`."""
    value = mask
    for axis in range(3):
        first, second, fraction = weights[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        w = fraction.reshape(shape)
        top = high[axis] - low[axis] - 1
        # clipped indices only meet weight zero or the box's rim, which is zero by construction
        a = np.take(value, np.clip(first - low[axis], 0, top), axis=axis)
        b = np.take(value, np.clip(second - low[axis], 0, top), axis=axis)
        value = a + (b - a) * w
    return value


def _boxes(label: NDArray[np.integer], values: NDArray[np.integer]) -> dict[int, list[tuple[int, int]]]:
    boxes = {}
    for value in values:
        mask = label == value
        sides = []
        for axis in range(3):
            hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            sides.append((int(hit[0]), int(hit[-1]) + 1))
        boxes[int(value)] = sides
    return boxes


def resample_label(label: NDArray[np.integer], shape: Sequence[int]) -> NDArray[np.integer]:
    """Resample an integer map by a vote: each label's mask is interpolated linearly, the largest share wins.

    Unlike nearest neighbour this keeps boundaries smooth; unlike interpolating the numbers it never makes a label that
    is not there. On a tie the smaller value wins.

    Args:
        label: (X, Y, Z) integers of any type.
        shape: voxels of the target grid, which covers the same extent.

    Returns:
        `shape` in the same dtype; a copy when the shape is already right.
    """
    if tuple(label.shape) == tuple(shape):
        return label.copy()
    values = np.unique(label)
    result = np.full(tuple(shape), values[0], dtype=label.dtype)
    best = np.zeros(tuple(shape), dtype=np.float32)
    axes = [axis_weights(source, target) for source, target in zip(label.shape, shape, strict=True)]
    for value, sides in _boxes(label, values).items():
        low = [max(0, side[0] - 1) for side in sides]
        high = [min(size, side[1] + 1) for side, size in zip(sides, label.shape, strict=True)]
        reach = []
        for (first, second, _), (begin, end) in zip(axes, sides, strict=True):
            touched = np.flatnonzero((second >= begin) & (first < end))
            reach.append(slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0))
        if any(part.stop == part.start for part in reach):
            continue
        weights = [tuple(part[reach[axis]] for part in axes[axis]) for axis in range(3)]
        cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        share = _interpolate_box((label[cut] == value).astype(np.float32), low, high, weights)
        target = tuple(reach)
        wins = share > best[target]
        result[target][wins] = value
        np.maximum(best[target], share, out=best[target])
    return result
