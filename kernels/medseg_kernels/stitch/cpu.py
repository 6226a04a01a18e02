"""The compiled CPU form: pointers and sizes to cpu.cpp. Tensors are checked by op.py before they come here."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, List, Optional, Sequence

import torch
from torch import Tensor

from .. import cpu_build
from .reference import label_dtype

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def library() -> ctypes.CDLL:
    """The compiled file, built on first use."""
    return cpu_build.load(Path(__file__).with_name("cpu.cpp"))


def _numbers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _pointer(tensor: Optional[Tensor]) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def add_window(
    values: Tensor, weight: Tensor, window: Tensor, importance: Tensor, offset: Optional[Tensor], start: List[int]
) -> bool:
    """As `reference.add_window`; True when a logit was NaN or infinite."""
    window, importance = window.contiguous(), importance.contiguous()
    offset = None if offset is None else offset.contiguous()
    broken = library().medseg_stitch_add(
        _pointer(values), _pointer(weight), _pointer(window), _pointer(importance), _pointer(offset),
        _numbers(values.shape[1:]), _numbers(window.shape[1:]), _numbers(start),
        ctypes.c_int64(values.shape[0]), ctypes.c_int64(window.stride(0)),
        ctypes.c_int(TYPES[values.dtype]), ctypes.c_int(TYPES[window.dtype]), ctypes.c_int(torch.get_num_threads()),
    )  # fmt: skip
    return bool(broken)


def stitch_labels(values: Tensor, weight: Optional[Tensor], *tables: Tensor, rounded: bool = False) -> Tensor:
    """As `reference.stitch_labels`; `tables` are index and fraction of X, Y, Z."""
    kept = [table.contiguous() for table in tables]
    indices, fractions = kept[0::2], kept[1::2]
    shape = [int(fraction.shape[0]) for fraction in fractions]
    low, high = int(indices[2].min()), int(indices[2].max())
    same = bool((indices[2][0] == torch.arange(low, low + shape[2])).all()) and bool((fractions[2] == 0).all())
    result = torch.empty(shape, dtype=label_dtype(values.shape[0]))
    library().medseg_stitch_labels(
        _pointer(values), _pointer(weight), _numbers(values.shape[1:]),
        ctypes.c_int64(values.shape[0]), ctypes.c_int64(values.stride(0)),
        (ctypes.c_void_p * 3)(*(index.data_ptr() for index in indices)),
        (ctypes.c_void_p * 3)(*(fraction.data_ptr() for fraction in fractions)),
        _numbers(shape), ctypes.c_int64(low), ctypes.c_int64(high - low + 1), ctypes.c_int(same),
        _pointer(result), ctypes.c_int(result.dtype == torch.int16), ctypes.c_int(TYPES[values.dtype]),
        ctypes.c_int(rounded), ctypes.c_int(torch.get_num_threads()),
    )  # fmt: skip
    return result
