"""The custom op of the short convolution: backends, fake shapes, autograd. What users call is in api.py."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from .. import dispatch
from ..prepared import Prepared
from ..straight import straight
from ..traversals.tables import split
from . import cpu
from .reference import torch_short_conv
from .tables import Settings

NAME = "short_conv"


def refuse_triton(*tensors: Tensor) -> str | None:
    """None when the triton form can run these tensors, else the reason."""
    if (reason := dispatch.refuse_float64(*tensors)) is not None:
        return reason
    if len(tensors) > 1 and (reason := dispatch.too_many("B * R", tensors[0].shape[0] * tensors[1].shape[0])):
        return reason
    return dispatch.refuse_triton(*tensors)


BACKENDS = {
    "triton": dispatch.Backend("triton", refuse_triton),
    "cpu": dispatch.Backend("cpu", dispatch.refuse_cpu_float32),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


@torch.library.custom_op("medseg::short_conv", mutates_args=())
def conv_op(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    grid: Sequence[int],
    traversals: str,
    mode: str,
    kernel: Sequence[int],
    silu: bool,
    backend: Optional[str],
) -> Tensor:
    """(B, R, N, C); shapes as in reference.py."""
    return _run_forward(x, weight, bias, grid, traversals, mode, kernel, silu, backend)  # type: ignore[no-any-return]


def _forward(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], grid: Sequence[int], traversals: str, mode: str, kernel: Sequence[int],
    silu: bool, backend: Optional[str],
) -> Tensor:  # fmt: skip
    settings = Settings(tuple(grid), traversals, mode, tuple(kernel), silu)
    chosen = dispatch.choose(NAME, BACKENDS, backend, x, weight, bias)
    if chosen == "triton":
        from . import triton_launch

        with dispatch.on_device(x):
            return triton_launch.forward(x, weight, bias, settings)
    if chosen == "cpu":
        return cpu.forward(x, weight, bias, settings)
    return torch_short_conv(x, weight, bias, list(grid), split(traversals), mode, list(kernel), silu).contiguous()


@conv_op.register_fake
def _(x, weight, bias, grid, traversals, mode, kernel, silu, backend):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[1], x.shape[2])


@torch.library.custom_op("medseg::short_conv_backward", mutates_args=())
def conv_backward_op(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    grid: Sequence[int],
    traversals: str,
    mode: str,
    kernel: Sequence[int],
    silu: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias in their dtypes; an empty one stands for a bias that was None."""
    to_x, to_weight, to_bias = _run_backward(grad, x, weight, bias, grid, traversals, mode, kernel, silu, backend)
    return to_x, to_weight, x.new_empty(0) if to_bias is None else to_bias


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], grid: Sequence[int], traversals: str, mode: str,
    kernel: Sequence[int], silu: bool, backend: Optional[str],
) -> Tuple[Tensor, Tensor, Optional[Tensor]]:  # fmt: skip
    settings = Settings(tuple(grid), traversals, mode, tuple(kernel), silu)
    chosen = dispatch.choose(NAME, BACKENDS, backend, x, weight, bias)
    if chosen == "triton":
        from . import triton_launch

        with dispatch.on_device(x):
            grads = triton_launch.backward(grad, x, weight, bias, settings)
    elif chosen == "cpu":
        grads = cpu.backward(grad, x, weight, bias, settings)
    else:
        grads = _torch_backward(grad, x, weight, bias, settings)
    grad_bias = None if bias is None or grads[2] is None else grads[2].to(bias.dtype).contiguous()
    return grads[0].to(x.dtype).contiguous(), grads[1].to(weight.dtype).contiguous(), grad_bias


@conv_backward_op.register_fake
def _(grad, x, weight, bias, grid, traversals, mode, kernel, silu, backend):  # type: ignore[no-untyped-def]
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


def _torch_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], settings: Settings
) -> Tuple[Tensor, Tensor, Tensor]:
    """By autograd through the torch form; `torch.func` because an op's body runs below autograd."""
    grid, traversals, mode, kernel, silu = settings
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    added = torch.zeros(weight.shape[:2], dtype=work, device=x.device) if bias is None else bias.to(work)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch_short_conv(x, weight, bias, list(grid), split(traversals), mode, list(kernel), silu)

    pull = torch.func.vjp(call, x.to(work), weight.to(work), added)[1]
    return pull(grad.to(work))  # type: ignore[return-value]


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, weight, bias = ctx.saved_tensors
    grads = run_conv_backward(grad, x, weight, bias, *ctx.settings)
    return grads[0], grads[1], None if bias is None else grads[2], None, None, None, None, None, None


conv_op.register_autograd(_backward, setup_context=_save)

_run_forward = Prepared(_forward, *dispatch.environment(NAME))
_run_backward = Prepared(_gradients, *dispatch.environment(NAME))

# what a caller without a compiler runs; see straight.py
run_conv, run_conv_backward = (
    straight(conv_op, _save, _backward, function=_run_forward),
    straight(conv_backward_op, function=_run_backward),
)
