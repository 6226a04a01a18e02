"""Gradients of the chunked form, written out; the formulas are those of README.md and of the compiled backends.

Nothing but the inputs and one state per CHECKPOINT steps is kept from the forward: the states of a chunk are computed
again, then the adjoint runs through the chunk from its end. Names and shapes as in reference.py.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ..traversals.orders import Traversal
from .chunked import CHECKPOINT, CHUNK, begin_mask, linear_scan, per_channel, restart, step_size
from .reference import pick, pick_row


class Inputs(NamedTuple):
    """What the op is called with, in its order; None for an absent optional."""

    u: Tensor
    delta: Tensor
    rate: Tensor
    write: Tensor
    read: Tensor
    skip: Optional[Tensor]
    z: Optional[Tensor]
    bias: Optional[Tensor]
    initial_state: Optional[Tensor]
    weights: Optional[Tensor]

    def zeros(self, dtype: torch.dtype) -> Inputs:
        """Zeros of the same shapes."""
        zeros = (None if x is None else torch.zeros(x.shape, dtype=dtype, device=x.device) for x in self)
        return Inputs(*zeros)  # type: ignore[arg-type]


class _Head(NamedTuple):
    """One traversal of the channels that share it; u, step, grad_y (B, N, C); write, read (B, N, C or 1, S)."""

    u: Tensor
    step: Tensor
    rate: Tensor
    write: Tensor
    read: Tensor
    start: Tensor
    order: Tensor
    begins: Optional[Tensor]
    grad_y: Tensor
    grad_last: Tensor
    kept: Tensor


class _HeadGrads(NamedTuple):
    """Gradients of a head; write and read still per channel (B, N, C, S); y is the output without skip."""

    u: Tensor
    step: Tensor
    rate: Tensor
    write: Tensor
    read: Tensor
    start: Tensor
    y: Tensor


def _head_backward(head: _Head) -> _HeadGrads:
    size_b, size_n, size_c = head.u.shape
    wide = head.u.new_zeros(size_b, size_n, size_c, head.rate.shape[1])
    grads = _HeadGrads(
        torch.zeros_like(head.u), torch.zeros_like(head.u), torch.zeros_like(head.rate), wide, torch.zeros_like(wide),
        torch.zeros_like(head.start), torch.zeros_like(head.u),
    )  # fmt: skip
    carry = head.grad_last  # gradient of the state after the chunk
    for first in reversed(range(0, size_n, CHUNK)):
        rows = head.order[first : first + CHUNK]
        u, step, grad_y = (x.index_select(1, rows).unsqueeze(-1) for x in (head.u, head.step, head.grad_y))
        write, read = head.write.index_select(1, rows), head.read.index_select(1, rows)
        before = head.kept[:, first // CHECKPOINT]
        full_decay = torch.exp(step * head.rate)
        decay, drive = restart(full_decay, step * u * write, head.start, head.begins, first)
        states = linear_scan(decay, drive, before)
        previous = torch.cat([before.unsqueeze(1), states[:, :-1]], 1)
        if head.begins is not None:
            here = head.begins[first : first + CHUNK].view(1, -1, 1, 1)
            previous = torch.where(here, head.start.unsqueeze(1), previous)
        # adjoint_t = read_t grad_y_t + decay_(t+1) adjoint_(t+1): the same recurrence, from the end
        later = torch.cat([torch.ones_like(decay[:, :1]), decay.flip(1)[:, :-1]], 1)
        adjoint = linear_scan(later, (read * grad_y).flip(1), carry).flip(1)
        carry = decay[:, 0] * adjoint[:, 0]
        faded = full_decay * previous
        if head.begins is not None:
            grads.start.add_(torch.where(here, full_decay * adjoint, torch.zeros_like(adjoint)).sum(1))
        into = (adjoint * write).sum(-1)
        grads.u[:, rows] = step.squeeze(-1) * into
        grads.step[:, rows] = u.squeeze(-1) * into + (adjoint * faded * head.rate).sum(-1)
        grads.rate.add_((adjoint * faded * step).sum((0, 1)))
        grads.write[:, rows] = adjoint * (step * u)
        grads.read[:, rows] = grad_y * states
        grads.y[:, rows] = (read * states).sum(-1)
    if head.begins is None:
        grads.start.add_(carry)
    return grads


def _to_groups(x: Tensor, groups: int) -> Tensor:
    """(B, N, C, S) summed over the channels of each group: (B, N, G, S)."""
    return x.unflatten(2, (groups, -1)).sum(3)


def _traversal_backward(
    given: Inputs, r: int, text: str, grid: Tuple[int, ...], delta_softplus: bool, grad_y: Tensor, grad_last: Tensor, kept: Tensor
) -> Tuple[Inputs, Tensor]:  # fmt: skip
    """Gradients of what traversal r reads, each without its R dimension, and y with skip. grad_y is (B, N, C)."""
    work, channels = grad_y.dtype, grad_y.shape[-1]
    u = pick(given.u, r).to(work)
    raw = pick(given.delta, r).to(work)
    bias = None if given.bias is None else pick_row(given.bias, r)
    step, rate = step_size(raw, bias, delta_softplus), pick_row(given.rate, r).to(work)
    write, read = pick(given.write, r).to(work), pick(given.read, r).to(work)
    heads = Traversal.parse(text).heads
    width, parts = channels // len(heads), []
    for h, name in enumerate(heads):
        c = slice(h * width, (h + 1) * width)
        start = kept.new_zeros(kept.shape[0], width, rate.shape[1])
        if given.initial_state is not None:
            start = given.initial_state[:, r, c].to(work)
        head = _Head(
            u[..., c], step[..., c], rate[c], per_channel(write, channels, c.start, c.stop),
            per_channel(read, channels, c.start, c.stop), start, name.order(grid, u.device),
            begin_mask(list(name.pieces(grid)), u.device), grad_y[..., c], grad_last[:, c], kept[:, :, :, c].transpose(2, 3),
        )  # fmt: skip
        parts.append(_head_backward(head))
    whole = _HeadGrads(*(torch.cat([p[i] for p in parts], d) for i, d in enumerate((2, 2, 0, 2, 2, 1, 2))))
    grad_u, y = whole.u, whole.y
    if given.skip is not None:
        skip = pick_row(given.skip, r)
        grad_u, y = grad_u + skip * grad_y, y + skip * u
    grad_raw = whole.step
    if delta_softplus:
        shifted = raw if bias is None else raw + bias
        grad_raw = torch.where(shifted > 20, grad_raw, grad_raw * torch.sigmoid(shifted))
    grads = Inputs(
        grad_u, grad_raw, whole.rate, _to_groups(whole.write, write.shape[2]), _to_groups(whole.read, read.shape[2]),
        (grad_y * u).sum((0, 1)), None, grad_raw.sum((0, 1)), whole.start, None,
    )  # fmt: skip
    return grads, y


def chunked_scan_backward(
    grad_out: Tensor,
    grad_last: Tensor,
    given: Inputs,
    kept: Tensor,
    grid: Tuple[int, ...],
    traversals: List[str],
    delta_softplus: bool,
    merge: str,
) -> Inputs:
    """Gradients of all inputs, in the dtype the work was done in; None for absent ones.

    Args:
        grad_out: (B, N, C) or (B, N, R*C) for `concat`.
        grad_last: (B, R, C, S).
        given: the inputs.
        kept: (B, R, K, S, C), third result of `chunked_scan`.
        grid, traversals, delta_softplus, merge: as in `chunked_scan`.
    """
    work, count, channels = kept.dtype, len(traversals), given.u.shape[-1]
    total = given.zeros(work)
    grad_out = grad_out.to(work)
    z = None if given.z is None else given.z.to(work)
    for r, text in enumerate(traversals):
        through = grad_out[..., r * channels : (r + 1) * channels] if merge == "concat" else grad_out
        through = through / count if merge == "mean" else through
        gated = through if z is None else through * functional.silu(z)
        grad_y = gated if given.weights is None else gated * given.weights[r]
        grads, y = _traversal_backward(
            given, r, text, grid, delta_softplus, grad_y, grad_last[:, r].to(work), kept[:, r]
        )
        for name in ("u", "delta", "write", "read"):
            pick(getattr(total, name), r).add_(getattr(grads, name))
        for name in ("rate", "skip", "bias"):
            if getattr(total, name) is not None:
                pick_row(getattr(total, name), r).add_(getattr(grads, name))
        if total.initial_state is not None and grads.initial_state is not None:
            total.initial_state[:, r] = grads.initial_state
        if total.weights is not None:
            total.weights[r] = (gated * y).sum((0, 1))
        if total.z is not None and z is not None:
            sigmoid = torch.sigmoid(z)
            slope = sigmoid * (1 + z * (1 - sigmoid))
            total.z.add_(through * slope * (y if given.weights is None else y * given.weights[r]))
    return total
