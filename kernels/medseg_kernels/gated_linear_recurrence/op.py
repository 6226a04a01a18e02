"""The custom op: backends, fake shapes, autograd. What users call is in api.py and members.py.

The op takes its arguments already checked and flattened to (B, N, H, .). The backward is an op of its own, so that compiled
autograd sees two opaque calls. Nothing is kept for the backward but the inputs: the states are computed again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .. import dispatch
from ..prepared import Prepared
from ..straight import straight
from . import cpu
from .checks import DEBUG, check_pieces, check_values
from .chunked import chunkwise
from .chunked_backward import Gradients, chunkwise_backward
from .reference import work_dtype
from .visits import cached_visit, piece_count

NAME = "gated_linear_recurrence"


MAX_KEYS = 256  # triton: the state of a block of value channels stays in registers


def refuse_triton(*tensors: Tensor) -> str | None:
    """Conditions of the triton kernels: the usual ones, no float64, at most 256 key channels."""
    if any(t.dtype == torch.float64 for t in tensors):
        return "float64 is computed by the reference only"
    if tensors and tensors[0].dim() == 4 and tensors[0].shape[-1] > MAX_KEYS:
        return f"{tensors[0].shape[-1]} key channels, at most {MAX_KEYS} fit into registers"
    if (
        tensors
        and tensors[0].dim() == 4
        and (reason := dispatch.too_many("B * H", tensors[0].shape[0] * tensors[0].shape[2]))
    ):
        return reason
    return dispatch.refuse_triton(*tensors)


def refuse_cpu(*tensors: Tensor) -> str | None:
    """Conditions of the compiled CPU form: the usual ones, and no float64."""
    if any(t.dtype == torch.float64 for t in tensors):
        return "float64 is computed by the reference only"
    return dispatch.refuse_cpu(*tensors)


def _triton(direction: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        # imported when first used: this package works where triton is not installed
        module = importlib.import_module(".triton_launch", __package__)
        with dispatch.on_device(args[0]):
            return getattr(module, direction)(*args)

    return run


BACKENDS = {
    "triton": dispatch.Backend("triton", refuse_triton),
    "cpu": dispatch.Backend("cpu", refuse_cpu),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}
FORWARD: dict[str, Callable[..., Tuple[Tensor, Tensor]]] = {
    "triton": _triton("forward"),
    "cpu": cpu.forward,
    "reference": chunkwise,
}
BACKWARD: dict[str, Callable[..., Gradients]] = {
    "triton": _triton("backward"),
    "cpu": cpu.backward,
    "reference": chunkwise_backward,
}


def explain_backend(*tensors: Tensor) -> str:
    """One line per backend: which runs on these tensors, and why the others do not."""
    return dispatch.explain(NAME, BACKENDS, *tensors)


@torch.library.custom_op("medseg::gated_linear_recurrence", mutates_args=())
def recurrence_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    traversal: str,
    scale: float,
    delta: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor]:
    """(B, N, H, V) outputs and (B * W, H, K, V) last states; see `general.gated_linear_recurrence`."""
    return _run_forward(  # type: ignore[no-any-return]
        q, k, v, g, beta, initial_state, _bounds(cu_seqlens), grid, traversal, scale, delta, backend
    )  # fmt: skip


def _bounds(cu_seqlens: Optional[Tensor]) -> Optional[List[int]]:
    return None if cu_seqlens is None else cu_seqlens.tolist()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], initial_state: Optional[Tensor],
    packed: Optional[List[int]], grid: List[int], traversal: str, scale: float, delta: bool, backend: Optional[str],
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    chosen = dispatch.choose(NAME, BACKENDS, backend, q, k, v, g, beta, initial_state)
    order, bounds = _where(packed, grid, traversal, q)
    check_values(q, k, v, g, beta, initial_state)
    output, final = FORWARD[chosen](q, k, v, g, beta, scale, initial_state, order, bounds, delta)
    return output.contiguous(), final.contiguous()


@recurrence_op.register_fake
def _(q, k, v, g, beta, initial_state, cu_seqlens, grid, traversal, scale, delta, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(v, memory_format=torch.contiguous_format), _state_like(q, v, cu_seqlens, grid, traversal)


def _where(
    packed: Optional[Sequence[int]], grid: List[int], traversal: str, q: Tensor
) -> Tuple[Optional[Tensor], Optional[List[int]]]:
    """Visiting order and bounds of the pieces."""
    order, bounds = cached_visit(traversal, tuple(grid), str(q.device))
    if packed is not None:
        bounds = list(packed)
        check_pieces(bounds, q.shape[1])
    if order is not None and q.shape[2] % order.shape[0] != 0:
        raise ValueError(
            f"traversal {traversal!r} has {order.shape[0]} heads; expected a number that divides H = {q.shape[2]}"
        )
    return order, bounds


def _state_like(q: Tensor, v: Tensor, cu_seqlens: Optional[Tensor], grid: List[int], traversal: str) -> Tensor:
    count = piece_count(traversal, grid) if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return v.new_empty(q.shape[0] * count, q.shape[2], q.shape[3], v.shape[3], dtype=work_dtype(v))


@torch.library.custom_op("medseg::gated_linear_recurrence_backward", mutates_args=())
def recurrence_backward_op(
    grad_output: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    traversal: str,
    scale: float,
    delta: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, g, beta and initial_state; empty tensors stand for arguments that were None."""
    found = _plain_backward(
        grad_output, grad_final, q, k, v, g, beta, initial_state, cu_seqlens, grid, traversal, scale, delta, backend
    )  # fmt: skip
    # an empty tensor each: two results of an op must not be the same tensor
    return tuple(q.new_empty(0) if one is None else one for one in found)  # type: ignore[return-value]


def _plain_backward(*given: Any) -> Tuple[Optional[Tensor], ...]:
    *tensors, packed = given[:9]
    return _run_backward(*tensors, _bounds(packed), *given[9:])  # type: ignore[no-any-return]


def _gradients(
    grad_output: Tensor, grad_final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor],
    initial_state: Optional[Tensor], packed: Optional[List[int]], grid: List[int], traversal: str, scale: float, delta: bool,
    backend: Optional[str],
) -> Tuple[Optional[Tensor], ...]:  # fmt: skip
    chosen = dispatch.choose(NAME, BACKENDS, backend, q, k, v, g, beta, initial_state)
    order, bounds = _where(packed, grid, traversal, q)
    grads = BACKWARD[chosen](grad_output, grad_final, q, k, v, g, beta, scale, initial_state, order, bounds, delta)
    d_state = None if initial_state is None else grads.initial_state.to(initial_state.dtype)
    given = (grads.q, grads.k, grads.v, grads.g, grads.beta, d_state)
    return tuple(None if grad is None else grad.contiguous() for grad in given)


@recurrence_backward_op.register_fake
def _(grad_output, grad_final, q, k, v, g, beta, initial_state, cu_seqlens, grid, traversal, scale, delta, backend):  # type: ignore[no-untyped-def]
    def like(x: Optional[Tensor]) -> Tensor:
        return q.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)

    return like(q), like(k), like(v), like(g), like(beta), like(initial_state)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:7])
    ctx.settings = inputs[7:]
    ctx.final = output[1].shape, output[1].dtype
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_output: Optional[Tensor], grad_final: Optional[Tensor]):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors
    if grad_output is None:
        grad_output = torch.zeros_like(saved[2], memory_format=torch.contiguous_format)
    if grad_final is None:
        grad_final = saved[2].new_zeros(ctx.final[0], dtype=ctx.final[1])
    grads = run_recurrence_backward(grad_output, grad_final, *saved, *ctx.settings)
    needed = [grad if x is not None else None for grad, x in zip(grads, saved[:6], strict=True)]
    return (*needed, *[None] * 6)


recurrence_op.register_autograd(_backward, setup_context=_save)


_run_forward = Prepared(_forward, *dispatch.environment(NAME), DEBUG)
_run_backward = Prepared(_gradients, *dispatch.environment(NAME))

# what a caller without a compiler runs; see straight.py
run_recurrence, run_recurrence_backward = (
    straight(recurrence_op, _save, _backward), straight(recurrence_backward_op, function=_plain_backward)
)  # fmt: skip
