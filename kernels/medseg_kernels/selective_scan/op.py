"""The custom op: backends, fake shapes, autograd. What users call is in api.py.

The op takes arguments already checked and flattened to tokens. Its third result, the states kept for the backward, has a
shape that follows from the inputs' shapes alone. The backward is an op of its own, so that compilers see two opaque calls.

Autocast: activations arrive in whatever dtype the layers before gave them, 16-bit or not, each may have its own; rates,
biases, states and sums are float32 in every backend, so nothing needs casting here.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from .. import dispatch
from ..prepared import Prepared
from ..straight import straight
from ..traversals.tables import split
from . import cpu
from .chunked import CHECKPOINT, chunked_scan
from .chunked_backward import Inputs, chunked_scan_backward

NAME = "selective_scan"


def refuse_triton(*tensors: Tensor) -> str | None:
    """None when the triton form can run these tensors, else the reason."""
    if (reason := dispatch.refuse_float64(*tensors)) is not None:
        return reason
    if tensors and tensors[0].dim() == 4 and (reason := dispatch.too_many("B", tensors[0].shape[0])):
        return reason
    return dispatch.refuse_triton(*tensors)


BACKENDS = {
    "triton": dispatch.Backend("triton", refuse_triton),
    "cpu": dispatch.Backend("cpu", dispatch.refuse_cpu_float32),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


def work_dtype(u: Tensor) -> torch.dtype:
    """The dtype of states and sums."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


@torch.library.custom_op("medseg::selective_scan", mutates_args=())
def scan_op(
    u: Tensor,
    delta: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    weights: Optional[Tensor],
    grid: Sequence[int],
    traversals: str,
    delta_softplus: bool,
    merge: str,
    save: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, N, C or R*C), last states (B, R, C, S), kept states (B, R, K, S, C); shapes as in reference.py.

    Args:
        save: keep the states that the backward needs (K = 0 without).
        backend: name of a backend, or None for the first that can run.
    """
    return _run_forward(  # type: ignore[no-any-return]
        u, delta, rate, write, read, skip, z, bias, initial_state, weights, grid, traversals, delta_softplus, merge, save, backend
    )  # fmt: skip


def _forward(
    u: Tensor, delta: Tensor, rate: Tensor, write: Tensor, read: Tensor, skip: Optional[Tensor], z: Optional[Tensor],
    bias: Optional[Tensor], initial_state: Optional[Tensor], weights: Optional[Tensor], grid: Sequence[int], traversals: str,
    delta_softplus: bool, merge: str, save: bool, backend: Optional[str],
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given = Inputs(u, delta, rate, write, read, skip, z, bias, initial_state, weights)
    chosen = dispatch.choose(NAME, BACKENDS, backend, *given)
    if chosen == "triton":
        from . import triton_launch

        with dispatch.on_device(u):
            return triton_launch.forward(given, tuple(grid), traversals, delta_softplus, merge, save)
    if chosen == "cpu":
        return cpu.forward(given, tuple(grid), traversals, delta_softplus, merge, save)
    out, last, kept = chunked_scan(*given, list(grid), split(traversals), delta_softplus, merge)
    return out.contiguous(), last.contiguous(), (kept if save else kept[:, :, :0]).contiguous()


@scan_op.register_fake
def _(  # type: ignore[no-untyped-def]
    u, delta, rate, write, read, skip, z, bias, initial_state, weights, grid, traversals, softplus, merge, save, backend
):
    size_b, size_n, size_c, size_r = u.shape[0], u.shape[2], u.shape[3], len(split(traversals))
    work, size_s = work_dtype(u), rate.shape[2]
    kept = (size_n + CHECKPOINT - 1) // CHECKPOINT if save else 0
    return (
        u.new_empty(size_b, size_n, size_r * size_c if merge == "concat" else size_c),
        u.new_empty(size_b, size_r, size_c, size_s, dtype=work),
        u.new_empty(size_b, size_r, kept, size_s, size_c, dtype=work),
    )


@torch.library.custom_op("medseg::selective_scan_backward", mutates_args=())
def scan_backward_op(
    grad_out: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    weights: Optional[Tensor],
    kept: Tensor,
    grid: Sequence[int],
    traversals: str,
    delta_softplus: bool,
    merge: str,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the ten tensors of the forward in their dtypes; empty ones stand for arguments that were None."""
    found = _run_backward(
        grad_out, grad_last, u, delta, rate, write, read, skip, z, bias, initial_state, weights, kept, grid, traversals,
        delta_softplus, merge, backend,
    )  # fmt: skip
    return tuple(u.new_empty(0) if one is None else one for one in found)  # type: ignore[return-value]


def _gradients(
    grad_out: Tensor, grad_last: Tensor, u: Tensor, delta: Tensor, rate: Tensor, write: Tensor, read: Tensor,
    skip: Optional[Tensor], z: Optional[Tensor], bias: Optional[Tensor], initial_state: Optional[Tensor],
    weights: Optional[Tensor], kept: Tensor, grid: Sequence[int], traversals: str, delta_softplus: bool, merge: str,
    backend: Optional[str],
) -> Tuple[Optional[Tensor], ...]:  # fmt: skip
    given = Inputs(u, delta, rate, write, read, skip, z, bias, initial_state, weights)
    chosen = dispatch.choose(NAME, BACKENDS, backend, *given)
    if chosen == "triton":
        from . import triton_launch

        with dispatch.on_device(u):
            grads = triton_launch.backward(
                grad_out, grad_last, given, kept, tuple(grid), traversals, delta_softplus, merge
            )
    elif chosen == "cpu":
        grads = cpu.backward(grad_out, grad_last, given, kept, tuple(grid), traversals, delta_softplus, merge)
    else:
        grads = chunked_scan_backward(
            grad_out, grad_last, given, kept, tuple(grid), split(traversals), delta_softplus, merge
        )
    return tuple(
        None if x is None or grad is None else grad.to(x.dtype).contiguous()
        for grad, x in zip(grads, given, strict=True)
    )


@scan_backward_op.register_fake
def _(grad_out, grad_last, u, delta, rate, write, read, skip, z, bias, initial_state, weights, kept, *settings):  # type: ignore[no-untyped-def]
    given = (u, delta, rate, write, read, skip, z, bias, initial_state, weights)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.grid, ctx.traversals, ctx.delta_softplus, ctx.merge, saved, ctx.backend = inputs
    if not saved:
        return
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_out: Optional[Tensor], grad_last: Optional[Tensor], grad_kept: Optional[Tensor]):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # read once: checkpointing gives them away once
    if len(saved) == 0:
        raise RuntimeError("selective_scan: a gradient is asked for, but the forward ran with save=False")
    *tensors, kept = saved
    u, traversals = tensors[0], ctx.traversals
    if grad_out is None:
        wide = len(split(traversals)) if ctx.merge == "concat" else 1
        grad_out = u.new_zeros(u.shape[0], u.shape[2], wide * u.shape[3])
    if grad_last is None:
        grad_last = kept.new_zeros(kept.shape[0], kept.shape[1], kept.shape[4], kept.shape[3])
    grads = run_scan_backward(
        grad_out, grad_last, *tensors, kept, ctx.grid, traversals, ctx.delta_softplus, ctx.merge, ctx.backend
    )
    needed = [None if x is None else grad for grad, x in zip(grads, tensors, strict=True)]
    return (*needed, None, None, None, None, None, None)


scan_op.register_autograd(_backward, setup_context=_save)

_run_forward = Prepared(_forward, *dispatch.environment(NAME))
_run_backward = Prepared(_gradients, *dispatch.environment(NAME))

# what a caller without a compiler runs; see straight.py
run_scan, run_scan_backward = (
    straight(scan_op, _save, _backward, function=_run_forward),
    straight(scan_backward_op, function=_run_backward),
)
