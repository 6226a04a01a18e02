"""`medseg::window_attention` and its backward as torch operators: schema, fake shapes, autograd, choice of the backend."""

from __future__ import annotations

import importlib
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor

from medseg_kernels import dispatch
from medseg_kernels.dispatch import Backend
from medseg_kernels.prepared import Prepared
from medseg_kernels.straight import straight

from .call import Problem, output_shapes
from .windows import effective_window


def _refuse_triton(*tensors: Tensor) -> str | None:
    if (reason := dispatch.refuse_triton(*tensors)) is not None:
        return reason
    return importlib.import_module(f"{__package__}.triton_launch").refuse(*tensors)


def _refuse_cpu(*tensors: Tensor) -> str | None:
    if (reason := dispatch.refuse_cpu(*tensors)) is not None:
        return reason
    return importlib.import_module(f"{__package__}.cpu").refuse(*tensors)


def _refuse_nothing(*tensors: Tensor) -> str | None:
    return None


BACKENDS = {
    "triton": Backend("triton", _refuse_triton),
    "cpu": Backend("cpu", _refuse_cpu),
    "reference": Backend("reference", _refuse_nothing),
}
MODULES = {"triton": "triton_launch", "cpu": "cpu", "reference": "chunked"}


def _run(direction: str, requested: str, problem: Problem, *rest: Tensor) -> Any:
    """`forward(problem)` or `backward(problem, ...)` of the backend's module, which is imported when first used."""
    chosen = dispatch.choose("window_attention", BACKENDS, requested or None, *problem.tensors)
    module = importlib.import_module(f"{__package__}.{MODULES[chosen]}")
    with dispatch.on_device(problem.qkv):
        return getattr(module, direction)(problem, *rest)


def _problem(qkv: Tensor, *rest: Any) -> Problem:
    """The operators' flat arguments as a Problem."""
    kv, query, carriers, sample, padding, table, dense, seed, table_window, shift, radius, *options = rest
    window, used_shift = effective_window(list(qkv.shape[1:4]), list(table_window), list(shift))
    causal, geometry, pad_mode, bias_index, scale, dropout, _ = options
    return Problem(
        qkv, kv, query, carriers, sample, padding, table, dense, seed, list(table_window), window, used_shift, list(radius),
        causal, geometry, pad_mode, bias_index, scale, dropout,
    )  # fmt: skip


@torch.library.custom_op("medseg::window_attention", mutates_args=())
def attention_op(
    qkv: Tensor,
    kv: Optional[Tensor],
    global_query: Optional[Tensor],
    carriers: Optional[Tensor],
    sample: Optional[Tensor],
    padding: Optional[Tensor],
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    seed: Optional[Tensor],
    window_size: List[int],
    shift_size: List[int],
    radius: List[int],
    causal: bool,
    geometry: str,
    pad_mode: str,
    bias_index: str,
    scale: float,
    dropout: float,
    backend: str,
) -> Tuple[Tensor, Tensor, Tensor]:
    """(tokens, carriers, log-sum-exp (B, W, H, U)); see `problem.Problem` for the shapes."""
    return _run_forward(  # type: ignore[no-any-return]
        qkv, kv, global_query, carriers, sample, padding, bias_table, dense_bias, seed, window_size, shift_size, radius,
        causal, geometry, pad_mode, bias_index, scale, dropout, backend,
    )  # fmt: skip


def _forward(qkv: Tensor, *rest: Any) -> Any:
    return _run("forward", rest[-1], _problem(qkv, *rest))


@attention_op.register_fake
def _(qkv: Tensor, *rest: Any) -> Tuple[Tensor, Tensor, Tensor]:
    carriers, window_size, shift_size = rest[2], rest[8], rest[9]
    body, extra, lse = output_shapes(qkv, carriers, window_size, shift_size)
    kind = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    return qkv.new_empty(body), qkv.new_empty(extra), qkv.new_empty(lse, dtype=kind)


@torch.library.custom_op("medseg::window_attention_backward", mutates_args=())
def attention_backward_op(
    grad: Tensor,
    grad_carriers: Tensor,
    out: Tensor,
    out_carriers: Tensor,
    lse: Tensor,
    qkv: Tensor,
    kv: Optional[Tensor],
    global_query: Optional[Tensor],
    carriers: Optional[Tensor],
    sample: Optional[Tensor],
    padding: Optional[Tensor],
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    seed: Optional[Tensor],
    window_size: List[int],
    shift_size: List[int],
    radius: List[int],
    causal: bool,
    geometry: str,
    pad_mode: str,
    bias_index: str,
    scale: float,
    dropout: float,
    backend: str,
) -> List[Tensor]:
    """Gradients of the eight differentiable tensors, empty for absent ones."""
    found = _run_backward(
        grad, grad_carriers, out, out_carriers, lse, qkv, kv, global_query, carriers, sample, padding, bias_table, dense_bias,
        seed, window_size, shift_size, radius, causal, geometry, pad_mode, bias_index, scale, dropout, backend,
    )  # fmt: skip
    return [torch.empty(0, device=qkv.device) if one is None else one for one in found]


def _gradients(
    grad: Tensor, grad_carriers: Tensor, out: Tensor, out_carriers: Tensor, lse: Tensor, qkv: Tensor, *rest: Any
) -> List[Optional[Tensor]]:
    found = _run("backward", rest[-1], _problem(qkv, *rest), out, out_carriers, lse, grad, grad_carriers)
    return list(found.as_list())


@attention_backward_op.register_fake
def _(
    grad: Tensor, grad_carriers: Tensor, out: Tensor, out_carriers: Tensor, lse: Tensor, qkv: Tensor, *rest: Any
) -> List[Tensor]:
    tensors = [qkv, *rest[:7]]
    empty = torch.float32
    return [
        qkv.new_empty(0, dtype=empty) if t is None else t.new_empty(t.shape)  # dense, whatever strides the input has
        for t in tensors
    ]


def _setup(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.present = [tensor is not None for tensor in inputs[:9]]
    ctx.options = inputs[9:]
    ctx.save_for_backward(*output, *[tensor for tensor in inputs[:9] if tensor is not None])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Optional[Tensor], grad_carriers: Optional[Tensor], _: Any) -> Tuple[Any, ...]:
    out, out_carriers, lse, *saved = ctx.saved_tensors
    grad = torch.zeros_like(out) if grad is None else grad
    if grad_carriers is None:
        grad_carriers = torch.zeros_like(out_carriers) if out_carriers.numel() else out_carriers
    rest = iter(saved)
    tensors = [next(rest) if there else None for there in ctx.present]
    found = run_attention_backward(grad, grad_carriers, out, out_carriers, lse, *tensors, *ctx.options)
    gradients = [value if there else None for value, there in zip(found, ctx.present[:8], strict=True)]
    return (*gradients, None, *[None] * len(ctx.options))


attention_op.register_autograd(_backward, setup_context=_setup)

_run_forward = Prepared(_forward, *dispatch.environment("window_attention"))
_run_backward = Prepared(_gradients, *dispatch.environment("window_attention"))

# what a caller without a compiler runs; see straight.py
run_attention, run_attention_backward = (
    straight(attention_op, _setup, _backward, function=_run_forward),
    straight(attention_backward_op, function=_run_backward),
)
