"""Launches the triton kernels of the short convolution. Imported only when the triton backend runs."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
import triton
from torch import Tensor

from ..tape import launch
from .reference import step_shift
from .tables import Settings, tables
from .triton_backward import weight_kernel
from .triton_forward import conv_kernel

TOKENS, BLOCK, WARPS = 32, 64, 4
SPAN = 1024  # tokens per partial sum of the weight's gradient


class _Call:
    """What all launches of one call share."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings) -> None:
        grid, traversals, mode, kernel, _ = settings
        self.x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
        turned = weight.transpose(1, 2)
        self.weight = torch.empty(turned.shape, dtype=torch.float32, device=x.device).copy_(turned)
        self.bias = None if bias is None else bias.float().contiguous()
        self.size_b, self.size_n, self.size_c = x.shape
        self.count, self.taps, heads = weight.shape[0], weight.shape[2], 1
        order, inverse, bounds = self.x, self.x, None
        if mode != "grid":
            order, inverse, bounds = tables(traversals, grid, x.device)
            heads = order.shape[1]
        sides = tuple(kernel) if mode == "grid" else (1, 1, 1)
        self.blocks = heads * triton.cdiv(self.size_c // heads, BLOCK)
        self.common: dict[str, Any] = dict(
            order=order, inverse=inverse, bounds=x if bounds is None else bounds, count=self.count, taps=self.taps,
            heads=heads, shift=step_shift(mode, self.taps), size_n=self.size_n, size_c=self.size_c, size_x=grid[0],
            size_y=grid[1], size_z=grid[2], kx=sides[0], ky=sides[1], kz=sides[2], GRID=mode == "grid",
            HAS_BOUNDS=bounds is not None, TOKENS=TOKENS, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip

    def convolve(self, x: Tensor, out: Tensor, grad: Optional[Tensor], sign: int, silu: bool) -> None:
        """x (B, R', N, C) -> out; `grad` as in conv_kernel; sign -1 turns the taps round and sums over traversals."""
        summed, up = sign < 0, x if grad is None else grad
        planes = self.size_b * (1 if summed else self.count)
        launch(
            conv_kernel, (triton.cdiv(self.size_n, TOKENS), self.blocks, planes),
            x=x, weight=self.weight, bias=x if self.bias is None else self.bias, grad=up, out=out, x_b=x.stride(0),
            x_r=x.stride(1) if x.shape[1] > 1 else 0, x_n=x.stride(2), grad_b=up.stride(0), grad_r=up.stride(1),
            grad_n=up.stride(2), sign=sign, HAS_BIAS=self.bias is not None and not summed, SILU=silu, GRAD=grad is not None,
            SUM=summed, **self.common,
        )  # fmt: skip


def forward(x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings) -> Tensor:
    """(B, R, N, C), as `torch_short_conv`."""
    call = _Call(x, weight, bias, settings)
    out = x.new_empty(call.size_b, call.count, call.size_n, call.size_c)
    call.convolve(call.x.unsqueeze(1), out, None, 1, settings.silu)
    return out


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings
) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    """Gradients of x (B, N, C), weight (R, C, T) and bias (R, C)."""
    call = _Call(x, weight, bias, settings)
    grad = grad if grad.stride(-1) == 1 or grad.shape[-1] == 1 else grad.contiguous()
    through = grad.contiguous()
    if settings.silu:
        through = torch.empty(grad.shape, dtype=torch.float32, device=x.device)
        call.convolve(call.x.unsqueeze(1), through, grad, 1, True)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    call.convolve(through, grad_x, None, -1, False)
    spans = triton.cdiv(call.size_n, SPAN)
    lead = (spans, call.size_b, call.count, call.size_c)
    partial, partial_bias = torch.empty(*lead, call.taps, device=x.device), torch.empty(lead, device=x.device)
    launch(
        weight_kernel, (spans * (call.taps + 1), call.blocks, call.size_b * call.count),
        x=call.x, through=through, partial=partial,
        partial_bias=partial_bias, x_b=call.x.stride(0), x_n=call.x.stride(1), spans=spans, span=SPAN,
        **call.common,
    )  # fmt: skip
    return grad_x, partial.sum((0, 1)), None if bias is None else partial_bias.sum((0, 1))
