"""Which samples of a step's whole batch a call of the network holds, so that what is drawn for a sample is drawn once.

A step may hand its batch to several processes, and each of them may run its share in parts. Every call then draws for the
whole batch, from the same seed, and keeps its own rows: the numbers are those of one call with all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_rows: ContextVar[tuple[tuple[int, ...], int] | None] = ContextVar("rows", default=None)


@contextmanager
def holding(rows: Sequence[int], of: int) -> Iterator[None]:
    """Calls in this block hold the samples `rows` of a batch of `of`."""
    token = _rows.set((tuple(rows), of))
    try:
        yield
    finally:
        _rows.reset(token)


def carried() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`: what holds now holds again when the call is repeated on the way back."""
    place = _rows.get()
    return nullcontext(), nullcontext() if place is None else holding(*place)


def draw_uniform(samples: int, device: torch.device) -> Tensor:
    """(samples,) numbers in [0, 1), one for each sample of this call.

    Args:
        samples: of the call, or a multiple where each is in several pieces; where they are no samples of a step (windows of a
            volume, a module alone) they are drawn as such.
        device: where to.
    """
    place = _rows.get()
    if place is None or samples % len(place[0]) or place[1] == len(place[0]):
        return torch.rand(samples, device=device, dtype=torch.float32)  # a repeated call may have another default
    rows, total = place
    drawn = torch.rand(total, samples // len(rows), device=device, dtype=torch.float32)
    return drawn[list(rows)].reshape(-1)
