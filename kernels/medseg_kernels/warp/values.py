"""Value changes of one image channel, in place: compiled where the tensor and the machine allow it, else in torch.

Both forms compute the same function; `tests/kernels/warp/test_values.py` holds them together.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg_kernels import cpu_build, dispatch

from .choice import choose_backend

EPSILON = 1e-7  # a flat channel stays flat instead of becoming NaN
BACKENDS = {
    "cpu": dispatch.Backend("cpu", lambda *tensors: dispatch.refuse_cpu(*tensors) or _refuse_layout(*tensors)),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


def change_gamma(channel: Tensor, gamma: float, *, inverted: bool = False, backend: str | None = None) -> None:
    """Raise to a power within the channel's own range; mean and standard deviation stay as they were.

    Args:
        channel: float32, changed in place.
        gamma: exponent; above 1 dark values are compressed.
        inverted: do it to the inverted image.
        backend: `cpu` or `reference`; None chooses.

    Raises:
        NotImplementedError: the channel asks for derivatives, which a change in place does not hand on.
    """
    sign = -1.0 if inverted else 1.0
    if _compiled("change_gamma", channel, backend):
        _library().medseg_gamma(channel.data_ptr(), channel.numel(), gamma, sign, EPSILON)
        return
    channel.mul_(sign)
    std, mean = torch.std_mean(channel, correction=0)
    low, high = torch.aminmax(channel)
    channel.sub_(low).div_((high - low).clamp_min(EPSILON)).clamp_(0, 1).pow_(gamma)
    new_std, new_mean = torch.std_mean(channel, correction=0)
    channel.sub_(new_mean).mul_(std / new_std.clamp_min(EPSILON)).add_(mean).mul_(sign)


def stretch_contrast(channel: Tensor, factor: float, *, backend: str | None = None) -> None:
    """Stretch about the mean, then clip to the range that the channel had. Arguments as in `change_gamma`."""
    if _compiled("stretch_contrast", channel, backend):
        _library().medseg_contrast(channel.data_ptr(), channel.numel(), factor)
        return
    low, high = torch.aminmax(channel)
    mean = channel.mean()
    channel.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def symmetric_filter(channel: Tensor, weights: Sequence[float], *, backend: str | None = None) -> None:
    """Convolve (X, Y, Z) along each axis with a symmetric kernel; edge voxels are repeated.

    Args:
        channel: float32 (X, Y, Z), changed in place; axes of length 1 are left alone.
        weights: the middle one first, then those to either side.
        backend: `cpu` or `reference`; None chooses.
    """
    radius = len(weights) - 1
    if _compiled("symmetric_filter", channel, backend):
        kernel = np.asarray(weights, dtype=np.float32)
        _library().medseg_filter(channel.data_ptr(), *channel.shape, kernel.ctypes.data, radius)
        return
    for axis in (2, 1, 0):
        length = channel.shape[axis]
        if length == 1:
            continue
        border = [max(radius, 0) if a == axis else -1 for a in range(3)]
        ends = [channel.narrow(axis, place, 1).expand(border) for place in (0, length - 1)]
        padded = torch.cat((ends[0], channel, ends[1]), dim=axis)
        channel.mul_(weights[0])
        for i in range(1, radius + 1):
            for start in (radius - i, radius + i):
                channel.add_(padded.narrow(axis, start, length), alpha=weights[i])


def _compiled(op: str, channel: Tensor, backend: str | None) -> bool:
    dispatch.refuse_derivatives(op, channel)
    if channel.dtype != torch.float32 or channel.numel() == 0:
        raise ValueError(f"channel is {channel.dtype} {tuple(channel.shape)}, expected float32 with voxels")
    return choose_backend(BACKENDS, backend, channel) == "cpu"


def _refuse_layout(*tensors: Tensor) -> str | None:
    return None if all(tensor.is_contiguous() for tensor in tensors) else "the channel is not contiguous"


@functools.cache
def _library() -> Any:
    library = cpu_build.load(Path(__file__).with_name("values.cpp"))
    integer, number, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    library.medseg_gamma.argtypes = [pointer, integer, number, number, number]
    library.medseg_contrast.argtypes = [pointer, integer, number]
    library.medseg_filter.argtypes = [pointer, integer, integer, integer, pointer, integer]
    for name in ("medseg_gamma", "medseg_contrast", "medseg_filter"):
        getattr(library, name).restype = None
    return library
