"""The truth in plain torch: one class at a time, so that it also serves, in bounded memory, where nothing faster can run.

K classes; X Y Z the logical grid of the network. A slab holds a moving part of that grid: along an axis shorter than the
grid, voxel g is stored at g modulo the slab's extent, so nothing is ever shifted.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor


class NonFiniteLogitsError(FloatingPointError):
    """The network returned NaN or infinite logits; labels made from them would mean nothing."""


def segments(start: int, count: int, extent: int) -> List[Tuple[int, int, int]]:
    """(offset in the run, first stored index, length) of the pieces of a run that wraps round at `extent`.

    Example:
        >>> segments(6, 4, 8)
        [(0, 6, 2), (2, 0, 2)]
    """
    pieces, done = [], 0
    while done < count:
        first = (start + done) % extent
        length = min(count - done, extent - first)
        pieces.append((done, first, length))
        done += length
    return pieces


def add_window(
    values: Tensor, weight: Tensor, window: Tensor, importance: Tensor, offset: Optional[Tensor], start: List[int]
) -> None:
    """values[:, start + i] += importance[i] * (window[:, i] - offset[i]); weight[start + i] += importance[i]."""
    extents = values.shape[1:]
    runs = [segments(s, n, e) for s, n, e in zip(start, importance.shape, extents, strict=True)]
    limit = torch.finfo(values.dtype).max
    for x, to_x, nx in runs[0]:
        for y, to_y, ny in runs[1]:
            for z, to_z, nz in runs[2]:
                here = (slice(to_x, to_x + nx), slice(to_y, to_y + ny), slice(to_z, to_z + nz))
                from_ = (slice(x, x + nx), slice(y, y + ny), slice(z, z + nz))
                share = importance[from_]
                weight[here] += share
                for k in range(values.shape[0]):
                    logits = window[k][from_].float()
                    logits = logits if offset is None else logits - offset[from_]
                    total = values[k][here].float() + share * logits
                    # a 16-bit slab saturates: the largest stays the largest, where infinity would become NaN later
                    values[k][here] = total.clamp_(-limit, limit).to(values.dtype)


def _take(source: Tensor, axis: int, index: Tensor, fraction: Tensor) -> Tensor:
    """Linear interpolation along one axis between the stored indices index[0] and index[1]."""
    extent = source.shape[axis]
    first = source.index_select(axis, index[0].long() % extent)
    if bool((index[0] == index[1]).all()):
        return first
    second = source.index_select(axis, index[1].long() % extent)
    shape = [1, 1, 1]
    shape[axis] = -1
    return torch.lerp(first, second, fraction.reshape(shape))


def stitch_labels(
    values: Tensor,
    weight: Optional[Tensor],
    x_index: Tensor,
    x_fraction: Tensor,
    y_index: Tensor,
    y_fraction: Tensor,
    z_index: Tensor,
    z_fraction: Tensor,
    *,
    rounded: bool = False,
) -> Tensor:
    """Index of the largest of the K blended, linearly resampled logits; the lower index wins a tie."""
    tables = ((x_index, x_fraction), (y_index, y_fraction), (z_index, z_fraction))
    shape = tuple(index.shape[1] for index, _ in tables)
    result = torch.zeros(shape, dtype=label_dtype(values.shape[0]), device=values.device)
    best = torch.full(shape, float("-inf"), device=values.device)
    for k in range(values.shape[0]):
        logits = resampled_class(values[k], weight, tables)
        logits = logits.half().float() if rounded else logits
        wins = logits > best
        result.masked_fill_(wins, k)
        best = torch.where(wins, logits, best)
    return result


def resampled_class(stored: Tensor, weight: Optional[Tensor], tables: Sequence[Tuple[Tensor, Tensor]]) -> Tensor:
    """Blended logits of one class on the target block, float32."""
    indices = [index for index, _ in tables]
    logits = _needed(stored, *indices).float()
    if weight is not None:
        logits = logits / _needed(weight, *indices).clamp_min(1e-30)
    for axis, (index, fraction) in enumerate(tables):
        logits = _take(logits, axis, _local(index), fraction)
    return logits


def _local(index: Tensor) -> Tensor:
    return index - index.min()


def _needed(source: Tensor, *indices: Tensor) -> Tensor:
    """The stored voxels between the smallest and largest index of each axis, unrolled into grid order."""
    for axis, index in enumerate(indices):
        wanted = torch.arange(int(index.min()), int(index.max()) + 1, device=source.device)
        if len(wanted) != source.shape[axis] or int(wanted[0]) % source.shape[axis] != 0:
            source = source.index_select(axis, wanted % source.shape[axis])
    return source


def label_dtype(classes: int) -> torch.dtype:
    """uint8 up to 256 classes, else int16."""
    return torch.uint8 if classes <= 256 else torch.int16
