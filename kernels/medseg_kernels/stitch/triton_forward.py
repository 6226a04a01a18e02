"""The GPU form: one program adds, or reduces, one block of voxels, all classes in a loop, nothing but labels written.

K classes; the slab is (K, SX, SY, SZ), any axis may be a ring. NaN and infinity are found when labels are made (a flag per
slab), since asking after every window would make the host wait for the GPU.
"""

from __future__ import annotations

from typing import List, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import NonFiniteLogitsError, label_dtype

BLOCK = 256


@triton.jit
def _add_kernel(
    values, weight, window, importance, offset,
    sx, sy, sz, wx, wy, wz, x0, y0, z0, classes, class_stride,
    SHIFTED: tl.constexpr, LIMIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < wx * wy * wz
    z = at % wz
    y = (at // wz) % wy
    x = at // (wz * wy)
    to = (((x0 + x) % sx).to(tl.int64) * sy + (y0 + y) % sy) * sz + (z0 + z) % sz
    share = tl.load(importance + at, mask=inside, other=0.0)
    tl.store(weight + to, tl.load(weight + to, mask=inside, other=0.0) + share, mask=inside)
    plane = tl.cast(sx, tl.int64) * sy * sz  # cast, not .to: an axis of one voxel arrives as a constant
    lower = tl.zeros((BLOCK,), tl.float32)
    if SHIFTED:
        lower = tl.load(offset + at, mask=inside, other=0.0)
    for k in range(classes):
        logit = tl.load(window + k * class_stride + at, mask=inside, other=0.0).to(tl.float32) - lower
        old = tl.load(values + k * plane + to, mask=inside, other=0.0).to(tl.float32)
        new = old + share * logit
        # compared, not clamped: NaN must pass through to the check of stitch_labels
        new = tl.where(new > LIMIT, LIMIT, tl.where(new < -LIMIT, -LIMIT, new))
        tl.store(values + k * plane + to, new.to(values.dtype.element_ty), mask=inside)


@triton.jit
def _labels_kernel(
    values, weight, x_index, x_fraction, y_index, y_fraction, z_index, z_fraction, out, broken,
    sx, sy, sz, nx, ny, nz, classes,
    WEIGHTED: tl.constexpr, ROUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < nx * ny * nz
    z = at % nz
    y = (at // nz) % ny
    x = at // (nz * ny)
    fx = tl.load(x_fraction + x, mask=inside, other=0.0)
    fy = tl.load(y_fraction + y, mask=inside, other=0.0)
    fz = tl.load(z_fraction + z, mask=inside, other=0.0)
    xa = (tl.load(x_index + x, mask=inside, other=0) % sx).to(tl.int64) * sy * sz
    xb = (tl.load(x_index + nx + x, mask=inside, other=0) % sx).to(tl.int64) * sy * sz
    ya = (tl.load(y_index + y, mask=inside, other=0) % sy).to(tl.int64) * sz
    yb = (tl.load(y_index + ny + y, mask=inside, other=0) % sy).to(tl.int64) * sz
    za = tl.load(z_index + z, mask=inside, other=0) % sz
    zb = tl.load(z_index + nz + z, mask=inside, other=0) % sz
    o0, o1, o2, o3 = xa + ya + za, xa + ya + zb, xa + yb + za, xa + yb + zb
    o4, o5, o6, o7 = xb + ya + za, xb + ya + zb, xb + yb + za, xb + yb + zb
    c0, c1 = (1 - fx) * (1 - fy) * (1 - fz), (1 - fx) * (1 - fy) * fz
    c2, c3 = (1 - fx) * fy * (1 - fz), (1 - fx) * fy * fz
    c4, c5 = fx * (1 - fy) * (1 - fz), fx * (1 - fy) * fz
    c6, c7 = fx * fy * (1 - fz), fx * fy * fz
    if WEIGHTED:
        # a corner that does not count may lie where no window was yet: its weight 0 must not make 0 / 0
        c0 = c0 / tl.maximum(tl.load(weight + o0, mask=inside, other=1.0), 1e-30)
        c1 = c1 / tl.maximum(tl.load(weight + o1, mask=inside, other=1.0), 1e-30)
        c2 = c2 / tl.maximum(tl.load(weight + o2, mask=inside, other=1.0), 1e-30)
        c3 = c3 / tl.maximum(tl.load(weight + o3, mask=inside, other=1.0), 1e-30)
        c4 = c4 / tl.maximum(tl.load(weight + o4, mask=inside, other=1.0), 1e-30)
        c5 = c5 / tl.maximum(tl.load(weight + o5, mask=inside, other=1.0), 1e-30)
        c6 = c6 / tl.maximum(tl.load(weight + o6, mask=inside, other=1.0), 1e-30)
        c7 = c7 / tl.maximum(tl.load(weight + o7, mask=inside, other=1.0), 1e-30)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    label = tl.zeros((BLOCK,), tl.int32)
    bad = tl.zeros((BLOCK,), tl.int32)
    plane = tl.cast(sx, tl.int64) * sy * sz
    for k in range(classes):
        base = values + k * plane
        logit = c0 * tl.load(base + o0, mask=inside, other=0.0).to(tl.float32)
        logit += c1 * tl.load(base + o1, mask=inside, other=0.0).to(tl.float32)
        logit += c2 * tl.load(base + o2, mask=inside, other=0.0).to(tl.float32)
        logit += c3 * tl.load(base + o3, mask=inside, other=0.0).to(tl.float32)
        logit += c4 * tl.load(base + o4, mask=inside, other=0.0).to(tl.float32)
        logit += c5 * tl.load(base + o5, mask=inside, other=0.0).to(tl.float32)
        logit += c6 * tl.load(base + o6, mask=inside, other=0.0).to(tl.float32)
        logit += c7 * tl.load(base + o7, mask=inside, other=0.0).to(tl.float32)
        bad = tl.where(tl.abs(logit) < 3e38, bad, 1)
        if ROUNDED:
            logit = logit.to(tl.float16).to(tl.float32)
        wins = logit > best
        best = tl.where(wins, logit, best)
        label = tl.where(wins, k, label)
    tl.store(out + at, label.to(out.dtype.element_ty), mask=inside)
    tl.store(broken + at * 0, bad, mask=inside & (bad != 0))


def add_window(
    values: Tensor, weight: Tensor, window: Tensor, importance: Tensor, offset: Optional[Tensor], start: List[int]
) -> bool:
    """As `reference.add_window`."""
    window, importance = window.contiguous(), importance.contiguous()
    voxels = importance.numel()
    _add_kernel[(triton.cdiv(voxels, BLOCK),)](
        values, weight, window, importance, importance if offset is None else offset.contiguous(),
        *values.shape[1:], *importance.shape, *start, values.shape[0], window.stride(0),
        SHIFTED=offset is not None, LIMIT=torch.finfo(values.dtype).max, BLOCK=BLOCK,
    )  # fmt: skip
    return False


def stitch_labels(values: Tensor, weight: Optional[Tensor], *tables: Tensor, rounded: bool = False) -> Tensor:
    """As `reference.stitch_labels`. Raises NonFiniteLogitsError when a blended logit was NaN or infinite."""
    kept = [table.contiguous() for table in tables]
    shape = [int(fraction.shape[0]) for fraction in kept[1::2]]
    result = torch.empty(shape, dtype=label_dtype(values.shape[0]), device=values.device)
    broken = torch.zeros(1, dtype=torch.int32, device=values.device)
    voxels = result.numel()
    _labels_kernel[(triton.cdiv(voxels, BLOCK),)](
        values, weight if weight is not None else values, *kept, result, broken,
        *values.shape[1:], *shape, values.shape[0],
        WEIGHTED=weight is not None, ROUNDED=rounded, BLOCK=BLOCK,
    )  # fmt: skip
    if weight is not None and bool(broken):
        raise NonFiniteLogitsError("the network returned NaN or infinite logits for a window")
    return result
