"""Whether a call that is played from its tape (medseg_kernels/tape.py) gives what it gives when it runs as it is written."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from medseg_kernels import prepared
from medseg_kernels.tape import Tape


def results(call: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    leaves = [one.clone().requires_grad_() for one in given]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)]


def played(call: Callable[..., Tensor], *shapes: tuple[int, ...]) -> bool:
    """Three calls on different numbers, the third of them played forward and backward, against unprepared ones, bit by bit."""
    torch.manual_seed(0)
    given = [[torch.randn(shape) / 4 for shape in shapes] for _ in range(3)]
    prepared.forget()
    with mock.patch.object(prepared, "everywhere", True):
        found = [results(call, one) for one in given][-1]
        tapes = [tape for one in prepared._all for tape in one.tapes.values()]
    assert len(tapes) == 2
    assert all(type(tape) is Tape for tape in tapes), tapes
    expected = results(call, given[-1])
    prepared.forget()
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
