"""Calls the compiled CPU form of the short convolution; copies nothing that is float32 with channels side by side."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Optional, Tuple

import torch
from torch import Tensor

from .. import cpu_build
from .reference import step_shift
from .tables import Settings, tables

# In the order of the struct; "_b", "_r", "_n" are strides over the axes B, R, N.
_FIELDS = [
    field
    for line in (
        "B R N C T H grid_mode silu sign shift X Y Z kx ky kz threads x x_b x_r x_n weight bias order inverse bounds out",
        "grad grad_b grad_r grad_n through grad_weight",
    )
    for field in line.split()
]


class Conv(ctypes.Structure):
    """Mirror of `struct Conv` in cpu.cpp: every field is 8 bytes, pointers are held as integers, 0 for none."""

    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS]


def _library() -> ctypes.CDLL:
    return cpu_build.load(Path(__file__).with_name("cpu.cpp"))


class _Call:
    """The struct for one call, and the tensors its pointers lead to, which must outlive it."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings) -> None:
        grid, traversals, mode, kernel, silu = settings
        self.conv = Conv()
        self.alive: list[Optional[Tensor]] = []
        conv = self.conv
        conv.B, conv.N, conv.C = x.shape
        conv.R, conv.T, conv.H = weight.shape[0], weight.shape[2], 1
        conv.grid_mode, conv.silu, conv.sign = int(mode == "grid"), int(silu), 1
        conv.shift, conv.threads = step_shift(mode, weight.shape[2]), torch.get_num_threads()
        conv.X, conv.Y, conv.Z = grid
        conv.kx, conv.ky, conv.kz = kernel if mode == "grid" else (1, 1, 1)
        source = self.keep("x", cpu_build.in_rows(x))
        conv.x_b, conv.x_n = source.stride(0), source.stride(1)
        self.keep("weight", weight.float().transpose(1, 2).contiguous())
        self.keep("bias", None if bias is None else bias.float().contiguous())
        if mode != "grid":
            order, inverse, bounds = tables(traversals, grid, x.device)
            conv.H = order.shape[1]
            self.keep("order", order)
            self.keep("inverse", inverse)
            self.keep("bounds", bounds)

    def keep(self, name: str, x: Optional[Tensor]) -> Tensor:
        """Put a tensor's address into a field."""
        self.alive.append(x)
        setattr(self.conv, name, 0 if x is None else x.data_ptr())
        return x  # type: ignore[return-value]


def forward(x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings) -> Tensor:
    """(B, R, N, C), as `torch_short_conv`."""
    call = _Call(x, weight, bias, settings)
    out = call.keep("out", torch.empty(x.shape[0], weight.shape[0], x.shape[1], x.shape[2]))
    _library().short_conv_forward(ctypes.byref(call.conv))
    return out.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (B, N, C), weight (R, C, T) and bias (R, C), in float32."""
    call = _Call(x, weight, bias, settings)
    conv = call.conv
    up = call.keep("grad", cpu_build.in_rows(grad))
    conv.grad_b, conv.grad_r, conv.grad_n = up.stride(0), up.stride(1), up.stride(2)
    through = call.keep("through", torch.empty(grad.shape))
    partial = call.keep("grad_weight", torch.zeros(conv.threads, conv.R, conv.T + 1, conv.C))
    _library().short_conv_backward_weight(ctypes.byref(conv))
    conv.x, conv.x_b, conv.x_r, conv.x_n = through.data_ptr(), through.stride(0), through.stride(1), through.stride(2)
    conv.sign = -1
    grad_x = call.keep("out", torch.empty(x.shape))
    _library().short_conv_backward_x(ctypes.byref(conv))
    total = partial.sum(0)
    return grad_x, total[:, :-1].transpose(1, 2), total[:, -1].clone()
