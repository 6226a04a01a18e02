"""Public functions of the stitch family: blend windows into a slab, reduce a slab to labels on a finer grid, in one pass.

The whole point is what never exists: no logits of all classes on the source grid, no divided copy, no one-hot.
"""

from __future__ import annotations

from typing import List, Optional, Sequence

import torch
from torch import Tensor

from .. import dispatch
from ..straight import straight
from . import reference
from .reference import NonFiniteLogitsError, label_dtype
from .tables import AxisTable, axis_table

NAME = "stitch"
SLAB_TYPES = (torch.float32, torch.float16)
WINDOW_TYPES = (torch.float32, torch.float16, torch.bfloat16)


BACKENDS = {
    "triton": dispatch.Backend("triton", dispatch.refuse_triton),
    "cpu": dispatch.Backend("cpu", dispatch.refuse_cpu),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


@torch.library.custom_op("medseg::stitch_add", mutates_args=("values", "weight"))
def _stitch_add(
    values: Tensor,
    weight: Tensor,
    window: Tensor,
    importance: Tensor,
    offset: Optional[Tensor],
    start: List[int],
    backend: Optional[str],
) -> None:
    chosen = dispatch.choose(NAME, BACKENDS, backend, values, weight, window, importance, offset)
    if chosen == "cpu":
        from . import cpu

        broken = cpu.add_window(values, weight, window, importance, offset, start)
    elif chosen == "triton":
        from . import triton_forward

        with dispatch.on_device(values):
            broken = triton_forward.add_window(values, weight, window, importance, offset, start)
    else:
        broken = not bool(torch.isfinite(window).all())
        reference.add_window(values, weight, window, importance, offset, start)
    if broken:
        raise NonFiniteLogitsError("the network returned NaN or infinite logits for a window")


@_stitch_add.register_fake
def _(values, weight, window, importance, offset, start, backend):  # type: ignore[no-untyped-def]
    return None


@torch.library.custom_op("medseg::stitch_labels", mutates_args=())
def _stitch_labels(
    values: Tensor,
    weight: Optional[Tensor],
    x_index: Tensor,
    x_fraction: Tensor,
    y_index: Tensor,
    y_fraction: Tensor,
    z_index: Tensor,
    z_fraction: Tensor,
    rounded: bool,
    backend: Optional[str],
) -> Tensor:
    tables = (x_index, x_fraction, y_index, y_fraction, z_index, z_fraction)
    chosen = dispatch.choose(NAME, BACKENDS, backend, values, weight, *tables)
    if chosen == "cpu":
        from . import cpu

        return cpu.stitch_labels(values, weight, *tables, rounded=rounded)
    if chosen == "triton":
        from . import triton_forward

        with dispatch.on_device(values):
            return triton_forward.stitch_labels(values, weight, *tables, rounded=rounded)
    return reference.stitch_labels(values, weight, *tables, rounded=rounded)


@_stitch_labels.register_fake
def _(values, weight, x_index, x_fraction, y_index, y_fraction, z_index, z_fraction, rounded, backend):  # type: ignore[no-untyped-def]
    shape = (x_fraction.shape[0], y_fraction.shape[0], z_fraction.shape[0])
    return values.new_empty(shape, dtype=label_dtype(values.shape[0]))


# what a caller without gradients or a compiler runs; see straight.py
_run_add, _run_labels = straight(_stitch_add), straight(_stitch_labels)


def stitch_window(
    values: Tensor,
    weight: Tensor,
    window: Tensor,
    importance: Tensor,
    start: Sequence[int],
    *,
    offset: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> None:
    """Add one window of logits, weighted, to a slab; in place.

    Args:
        values: (K, X, Y, Z) float32 or float16, the slab; an axis shorter than the grid is a ring. A float16 slab is
            added to in float32 and saturates at 65504.
        weight: (X, Y, Z) float32, the sum of the weights.
        window: (K, x, y, z) logits, float32, float16 or bfloat16.
        importance: (x, y, z) float32.
        start: grid index of the window's first voxel along X, Y, Z.
        offset: (x, y, z) float32, subtracted from the logits of all classes of a voxel. With the largest of them, the winner is
            stored as 0 and those close to it as small numbers, which float16 keeps apart: labels and the softmax of the
            blended logits do not depend on it.
        backend: `triton`, `cpu`, `reference`, or None for the first that can run.

    Raises:
        ValueError: shapes or types that do not fit together.
        NonFiniteLogitsError: NaN or infinity in the window.
    """
    if values.ndim != 4 or values.dtype not in SLAB_TYPES or not values.is_contiguous():
        raise ValueError(f"values: found {_kind(values)}; expected contiguous (K, X, Y, Z) float32 or float16")
    if weight.shape != values.shape[1:] or weight.dtype != torch.float32 or not weight.is_contiguous():
        raise ValueError(f"weight: found {_kind(weight)}; expected contiguous float32 {tuple(values.shape[1:])}")
    if window.ndim != 4 or window.shape[0] != values.shape[0] or window.dtype not in WINDOW_TYPES:
        raise ValueError(f"window: found {_kind(window)}; expected ({values.shape[0]}, x, y, z) of a floating type")
    if importance.shape != window.shape[1:] or importance.dtype != torch.float32:
        raise ValueError(f"importance: found {_kind(importance)}; expected float32 {tuple(window.shape[1:])}")
    if offset is not None and (offset.shape != importance.shape or offset.dtype != torch.float32):
        raise ValueError(f"offset: found {_kind(offset)}; expected float32 {tuple(importance.shape)}")
    _check_device(values, weight=weight, window=window, importance=importance, offset=offset)
    if len(start) != 3 or min(start) < 0 or any(n > e for n, e in zip(window.shape[1:], values.shape[1:], strict=True)):
        raise ValueError(f"start {list(start)} with window {_kind(window)} does not fit the slab {_kind(values)}")
    dispatch.refuse_forward_mode("stitch_window", values, weight, window, importance, offset)
    _run_add(values, weight, window, importance, offset, [int(s) for s in start], backend)


def stitch_labels(
    values: Tensor,
    weight: Optional[Tensor],
    x: AxisTable,
    y: AxisTable,
    z: AxisTable,
    *,
    rounded: bool = False,
    backend: Optional[str] = None,
) -> Tensor:
    """Labels of a block of the source grid: divide by the weights, resample linearly, take the largest, in one pass.

    Args:
        values: (K, X, Y, Z) float32 or float16, a slab (see `stitch_window`).
        weight: (X, Y, Z) float32, or None when the values are logits already.
        x, y, z: which stored voxels make each target voxel.
        rounded: compare resampled logits after rounding them to float16, as programs do that store them so; float16
            slabs only.
        backend: as above.

    Returns:
        (len(x), len(y), len(z)) uint8, int16 above 256 classes; the lower class wins an exact tie.
    """
    _check_slab(values, weight, x, y, z)
    if rounded and values.dtype != torch.float16:
        raise ValueError(f"rounded=True: found values {_kind(values)}; expected float16")
    if values.shape[0] > 32767:
        raise ValueError(f"values: found {values.shape[0]} classes; expected at most 32767")
    flat = [part.to(values.device) for table in (x, y, z) for part in (table.index, table.fraction)]
    weight = None if weight is None else weight.contiguous()  # the kernels read it voxel by voxel
    return _run_labels(values, weight, *flat, rounded, backend)


def stitch_logits(values: Tensor, weight: Optional[Tensor], x: AxisTable, y: AxisTable, z: AxisTable) -> Tensor:
    """The blended, resampled logits themselves, (K, len(x), len(y), len(z)) float32: K floats per voxel, for who needs them.

    Arguments as `stitch_labels`; plain torch on any device.
    """
    _check_slab(values, weight, x, y, z)
    tables = [(table.index.to(values.device), table.fraction.to(values.device)) for table in (x, y, z)]
    result = values.new_empty((values.shape[0], len(x), len(y), len(z)), dtype=torch.float32)
    for k in range(values.shape[0]):
        result[k] = reference.resampled_class(values[k], weight, tables)
    return result


def _check_slab(values: Tensor, weight: Optional[Tensor], x: AxisTable, y: AxisTable, z: AxisTable) -> None:
    if values.ndim != 4 or values.dtype not in SLAB_TYPES or not values.is_contiguous():
        raise ValueError(f"values: found {_kind(values)}; expected contiguous (K, X, Y, Z) float32 or float16")
    if weight is not None and (weight.shape != values.shape[1:] or weight.dtype != torch.float32):
        raise ValueError(f"weight: found {_kind(weight)}; expected float32 {tuple(values.shape[1:])}")
    _check_device(values, weight=weight)
    for name, table, extent in zip("xyz", (x, y, z), values.shape[1:], strict=True):
        if table.index.shape != (2, len(table)) or table.index.dtype != torch.int32 or len(table) == 0:
            raise ValueError(f"{name}: found index {_kind(table.index)}; expected int32 (2, n) with n > 0")
        if table.fraction.ndim != 1 or table.fraction.dtype != torch.float32:
            raise ValueError(f"{name}: found fraction {_kind(table.fraction)}; expected float32 (n,)")
        if int(table.index.min()) < 0 or int(table.index.max()) - int(table.index.min()) >= extent:
            raise ValueError(f"{name}: the table reaches further than the {extent} voxels that the slab holds")


def resample_argmax(logits: Tensor, shape: Sequence[int], *, backend: Optional[str] = None) -> Tensor:
    """Index of the largest logit on another grid over the same extent: `interpolate` then `argmax`, fused.

    Args:
        logits: (K, X, Y, Z); float32 and float16 are read as they are, bfloat16 is converted.
        shape: voxels of the target grid.
        backend: as above.

    Returns:
        `shape` uint8, int16 above 256 classes.

    Example:
        >>> resample_argmax(torch.eye(3).reshape(3, 3, 1, 1), (6, 1, 1)).flatten().tolist()
        [0, 0, 1, 1, 2, 2]
    """
    if logits.ndim != 4 or 0 in logits.shape or not logits.is_floating_point():
        raise ValueError(f"logits: found {_kind(logits)}; expected (K, X, Y, Z) of a floating type, no axis empty")
    if logits.dtype not in SLAB_TYPES:
        logits = logits.float()
    tables = [axis_table(source, int(target)) for source, target in zip(logits.shape[1:], shape, strict=True)]
    return stitch_labels(logits.contiguous(), None, *tables, backend=backend)


def _check_device(values: Tensor, **others: Optional[Tensor]) -> None:
    for name, tensor in others.items():
        if tensor is not None and tensor.device != values.device:
            raise ValueError(f"{name}: found on {tensor.device}; expected {values.device}, where values is")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
