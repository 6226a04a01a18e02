"""The compiled backend of `warp_patch`: numpy arrays or CPU tensors in, read in place through their strides."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_kernels import cpu_build

KINDS = {np.dtype(np.uint8): 0, np.dtype(np.int16): 1, np.dtype(np.int32): 2, np.dtype(np.int64): 3}


@functools.cache
def _library() -> Any:
    function = cpu_build.load(Path(__file__).with_name("cpu.cpp")).medseg_warp
    function.restype = None
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [
        *(pointer, integer, integer, pointer),  # image
        *(pointer, ctypes.c_int32, pointer, pointer),  # label, extent
        *(pointer, pointer, pointer, pointer),  # map, bumps
        *(integer, ctypes.c_int32, pointer, pointer, pointer, ctypes.c_int32),
    ]
    return function


def warp(
    image: NDArray[np.float32] | None,
    label: NDArray[np.integer] | None,
    mapping: NDArray[np.float64],
    size: Sequence[int],
    *,
    bumps: NDArray[np.float32] | None,
    image_outside: NDArray[np.float32],
    label_outside: int,
    by_vote: bool,
    threads: int,
) -> tuple[NDArray[np.float32] | None, NDArray[np.integer] | None]:
    """Arguments as in `op.warp_patch`, already checked; arrays of any strides that are whole elements."""
    extent = image.shape[1:] if image is not None else label.shape  # type: ignore[union-attr]
    channels = image.shape[0] if image is not None else 0
    out_image = None if image is None else np.empty((channels, *size), dtype=np.float32)
    out_label = None if label is None else np.empty(tuple(size), dtype=label.dtype)
    mapping = np.ascontiguousarray(mapping, dtype=np.float64)
    control = None if bumps is None else np.ascontiguousarray(bumps, dtype=np.float32)
    _library()(
        *_pointer(image),
        channels,
        image.strides[0] // 4 if image is not None else 0,
        _integers(_strides(image)[-3:]),
        *_pointer(label),
        KINDS[label.dtype] if label is not None else 0,
        _integers(_strides(label)),
        _integers(extent),
        *_pointer(mapping),
        *_pointer(control),
        _integers(control.shape[1:] if control is not None else (0, 0, 0)),
        *_pointer(image_outside),
        int(label_outside),
        int(by_vote),
        *_pointer(out_image),
        *_pointer(out_label),
        _integers(size),
        threads,
    )
    return out_image, out_label


def _pointer(array: NDArray[Any] | None) -> tuple[int | None]:
    return (None if array is None else array.ctypes.data,)


def _strides(array: NDArray[Any] | None) -> tuple[int, ...]:
    return (0, 0, 0) if array is None else tuple(stride // array.itemsize for stride in array.strides)


def _integers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * 3)(*values)
