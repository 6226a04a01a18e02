"""The readable twin of `warp_patch`: every output voxel's position, eight neighbours, and what to make of them.

Also the path of machines without a compiler, and of tensors on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def warp(
    image: Tensor | None,
    label: Tensor | None,
    mapping: Tensor,
    size: Sequence[int],
    *,
    bumps: Tensor | None,
    image_outside: Tensor,
    label_outside: int,
    by_vote: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Arguments as in `op.warp_patch`, already checked; all tensors on one device."""
    position = source_positions(mapping, size, bumps)  # (3, *size)
    extent = image.shape[1:] if image is not None else label.shape  # type: ignore[union-attr]
    lower = position.floor()
    share = position - lower
    out_image = out_label = None
    if image is not None:
        out_image = torch.zeros((image.shape[0], *size), dtype=torch.float32, device=image.device)
    values: list[Tensor] = []
    weights: list[Tensor] = []
    for corner in product((0, 1), repeat=3):
        index = lower.long() + torch.tensor(corner, device=position.device).view(3, 1, 1, 1)
        inside, flat = _flat_index(index, extent)
        weight = torch.ones_like(share[0])
        for axis, up in enumerate(corner):
            weight = weight * (share[axis] if up else 1 - share[axis])
        if image is not None and out_image is not None:
            found = image.reshape(image.shape[0], -1)[:, flat]
            out_image += weight * torch.where(inside, found, image_outside.view(-1, 1, 1, 1))
        if label is not None and by_vote:
            values.append(torch.where(inside, label.reshape(-1)[flat], label_outside))
            weights.append(weight)
    if label is not None and by_vote:
        out_label = _vote(torch.stack(values), torch.stack(weights)).to(label.dtype)
    elif label is not None:
        inside, flat = _flat_index((position + 0.5).floor().long(), extent)
        out_label = torch.where(inside, label.reshape(-1)[flat], label_outside).to(label.dtype)
    return out_image, out_label


def source_positions(mapping: Tensor, size: Sequence[int], bumps: Tensor | None) -> Tensor:
    """Position in the source, in voxels, of every output voxel: (3, *size) float32.

    Args:
        mapping: (3, 4) float64; position = mapping[:, :3] @ voxel + mapping[:, 3].
        size: output voxels per axis.
        bumps: (3, G0, G1, G2) control points of a uniform cubic B-spline that spans the output, or None.
    """
    axes = [torch.arange(n, dtype=torch.float64, device=mapping.device) for n in size]
    voxel = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    position = torch.einsum("ij,jxyz->ixyz", mapping[:, :3], voxel) + mapping[:, 3].view(3, 1, 1, 1)
    if bumps is not None:
        tables = [
            spline_table(n, g, device=mapping.device, dtype=torch.float64)
            for n, g in zip(size, bumps.shape[1:], strict=True)
        ]
        position = position + torch.einsum("agij,xg,yi,zj->axyz", bumps.double(), *tables)
    return position.float()


def spline_table(size: int, points: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(size, points) weights of the control points of a uniform cubic B-spline at evenly spaced places."""
    place = torch.arange(size, device=device, dtype=dtype) / max(size - 1, 1) * (points - 3)
    first = place.long().clamp(max=points - 4)
    t = place - first
    s = 1 - t
    basis = torch.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3], dim=1) / 6
    table = torch.zeros(size, points, device=device, dtype=dtype)
    return table.scatter_add_(1, first[:, None] + torch.arange(4, device=device), basis)


def _flat_index(index: Tensor, extent: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Whether (3, *size) voxel indices lie inside, and their place in the flattened source, clamped to it."""
    inside = torch.ones(index.shape[1:], dtype=torch.bool, device=index.device)
    flat = torch.zeros(index.shape[1:], dtype=torch.long, device=index.device)
    for axis, n in enumerate(extent):
        inside &= (index[axis] >= 0) & (index[axis] < n)
        flat = flat * n + index[axis].clamp(0, n - 1)
    return inside, flat


def _vote(values: Tensor, weights: Tensor) -> Tensor:
    """The value with the largest sum of weights among eight; of equal sums the smallest value."""
    sums = torch.stack([torch.where(values == value, weights, 0).sum(0) for value in values])
    candidates = torch.where(sums >= sums.amax(0), values, torch.iinfo(values.dtype).max)
    return candidates.amin(0)
