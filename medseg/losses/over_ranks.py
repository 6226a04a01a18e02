"""Sums over the processes of a training, so that a loss and its gradient are those of the whole batch.

A ratio of sums, such as the Dice, is no mean of the ratios of its parts. Inside `whole_batch` each process adds its sums to
those of the others before the ratio is taken; all then hold the same loss. Outside of it a batch is what this process has.

Gradients: training averages them over the W processes, each of which has derived the same loss L(S), S = s_1 + ... + s_W, by
its own part s_r only. The gradient that reaches s_r is therefore W dL/dS, and nothing has to be sent on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed

_together: ContextVar[bool] = ContextVar("together", default=False)


@contextmanager
def whole_batch() -> Iterator[None]:
    """Losses in this block are of the batch of all processes; every process must enter it, and come to the same losses."""
    token = _together.set(distributed.is_available() and distributed.is_initialized())
    try:
        yield
    finally:
        _together.reset(token)


def processes() -> int:
    """How many share a batch here."""
    return distributed.get_world_size() if _together.get() else 1


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        ctx.processes = distributed.get_world_size()
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.processes


def summed(*parts: Tensor) -> tuple[Tensor, ...]:
    """Each tensor summed over the processes, in one exchange; differentiable.

    Args:
        parts: of one dtype, of the same shapes in every process.
    """
    if processes() == 1:
        return parts
    flat = _Sum.apply(torch.cat([part.reshape(-1) for part in parts]))
    pieces = flat.split([part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))


def mean_of_processes(value: Tensor) -> Tensor:
    """The mean over the processes of what each has found in its samples: of a mean over samples, the mean over all of them."""
    return summed(value)[0] / processes()


@torch.no_grad()
def largest(values: Tensor) -> Tensor:
    """Elementwise the largest over the processes; not differentiable."""
    if processes() == 1:
        return values
    found = values.clone()
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return found


@torch.no_grad()
def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of the values (n,) of all processes, none of them negative; n may differ, and k counts all.

    Floating-point numbers of one sign are ordered as the integers with the same bits are, so that it is found bit by bit: an
    exchange of one number for each, whatever n is.
    """
    integers, bits = {torch.float32: (torch.int32, 31), torch.float64: (torch.int64, 63)}[values.dtype]
    patterns = values.detach().contiguous().view(integers)
    found = torch.zeros((), dtype=integers, device=values.device)
    for bit in reversed(range(bits)):
        raised = found | (1 << bit)
        (at_least,) = summed((patterns >= raised).sum().double())
        found = torch.where(at_least >= k, raised, found)
    return found.view(values.dtype)
