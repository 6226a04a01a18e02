"""Cases of the selective scan shared by its tests: shapes, options, and the comparison with the reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.selective_scan.chunked_backward import Inputs
from medseg_kernels.selective_scan.reference import reference_scan
from medseg_kernels.traversals.tables import SEPARATOR


@dataclass(frozen=True)
class Case:
    """One call: `each` names the tensors that every traversal has its own of."""

    grid: tuple[int, int, int] = (3, 4, 5)
    traversals: tuple[str, ...] = ("raster",)
    batch: int = 2
    channels: int = 6
    state: int = 3
    groups: tuple[int, int] = (1, 1)
    each: str = ""
    options: str = "skip z bias initial_state"
    softplus: bool = True
    merge: str = "sum"
    scale: float = field(default=1.0, compare=False)

    @property
    def name(self) -> str:
        """What pytest shows."""
        grid = "x".join(map(str, self.grid))
        return (
            f"{grid}-{'+'.join(self.traversals)}-C{self.channels}-S{self.state}-{self.merge}-{self.each}-{self.options}"
        )

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
        """Random inputs, the same for every dtype."""
        generator = torch.Generator().manual_seed(seed)
        size_r, size_n = len(self.traversals), self.grid[0] * self.grid[1] * self.grid[2]

        def random(name: str, *shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64) * self.scale

        def rows(name: str) -> int:
            return size_r if name in self.each.split() else 1

        b, c, s = self.batch, self.channels, self.state
        rate = -torch.exp(random("rate", rows("rate"), c, s) * 0.5)
        delta = random("delta", b, rows("delta"), size_n, c)
        tensors: dict[str, Tensor | None] = {
            "u": random("u", b, rows("u"), size_n, c),
            "delta": delta if self.softplus else delta.abs(),
            "rate": rate,
            "write": random("write", b, rows("write"), size_n, self.groups[0], s),
            "read": random("read", b, rows("read"), size_n, self.groups[1], s),
            "skip": random("skip", rows("skip"), c),
            "z": random("z", b, size_n, c),
            "bias": random("bias", rows("bias"), c) * 0.5,
            "initial_state": random("initial_state", b, size_r, c, s),
            "weights": random("weights", size_r, c),
        }
        wanted = {"u", "delta", "rate", "write", "read", *self.options.split()}
        wanted |= {"weights"} if self.merge == "weights" else set()
        return Inputs(*(None if x is None or n not in wanted else x.to(dtype) for n, x in tensors.items()))

    def settings(self) -> tuple[tuple[int, int, int], str, bool, str]:
        """What follows the tensors in the op's arguments."""
        return self.grid, SEPARATOR.join(self.traversals), self.softplus, self.merge


def leaves(given: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """Copies that require gradients."""
    return Inputs(*(None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in given))


def truth(case: Case, given: Inputs) -> tuple[Tensor, Tensor, Inputs, tuple[Tensor, Tensor]]:
    """Outputs, last states, gradients and the cotangents they belong to, from the reference in float64."""
    exact = leaves(given, torch.float64)
    out, last = reference_scan(*exact, case.grid, list(case.traversals), case.softplus, case.merge)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grad_last = torch.randn(last.shape, generator=generator, dtype=torch.float64)
    present = [x for x in exact if x is not None]
    grads = iter(torch.autograd.grad((out, last), present, (grad_out, grad_last)))
    return out, last, Inputs(*(None if x is None else next(grads) for x in exact)), (grad_out, grad_last)


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value."""
    scale = float(expected.detach().abs().max())
    return float((found.detach().double() - expected.detach()).abs().max()) / (scale if scale > 0 else 1.0)


def worst(case: Case, given: Inputs, forward: Any, backward: Any) -> dict[str, float]:
    """Error of every output and gradient of a backend's forward and backward against the reference in float64."""
    out, last, grads, (grad_out, grad_last) = truth(case, given)
    settings = case.settings()
    mine, mine_last, kept = forward(given, *settings, True)
    errors = {"out": error(mine, out), "last": error(mine_last, last)}
    assert mine.dtype == given.u.dtype
    found = backward(grad_out.to(mine.dtype), grad_last.to(kept.dtype), given, kept, *settings)
    for name, expected, value in zip(Inputs._fields, grads, found, strict=True):
        assert (expected is None) == (value is None), name
        if expected is not None:
            assert value.shape == expected.shape, name
            errors[name] = error(value, expected)
    return errors


WINDOWED, HEADS = "windowed:2,3,2:snake", "heads(raster; reversed raster:ZYX; hilbert)"
CASES: Sequence[Case] = (
    Case(),
    Case(options="", softplus=False),
    Case(grid=(1, 1, 1), channels=1, state=1, batch=1),
    Case(grid=(1, 13, 7), channels=17, state=4, traversals=("snake", "reversed snake"), each="delta write read"),
    Case(grid=(5, 3, 7), channels=8, state=8, traversals=("raster", "reversed raster:ZYX", "hilbert")),
    Case(grid=(4, 6, 3), channels=33, state=16, traversals=("interslice", "morton"), merge="mean", each="u rate skip bias"),
    Case(grid=(7, 5, 3), channels=4, state=2, traversals=("raster", WINDOWED), merge="concat", each="read"),
    Case(grid=(4, 4, 6), channels=12, state=5, traversals=(WINDOWED, f"reversed {WINDOWED}"), merge="weights", groups=(2, 1)),
    Case(grid=(4, 4, 5), channels=12, state=3, traversals=(HEADS, "snake"), groups=(4, 2), merge="weights", options="skip"),
    Case(grid=(9, 8, 15), channels=20, state=16, batch=1, traversals=("raster:YXZ",), options="z bias"),
    Case(grid=(2, 4, 8), channels=6, state=2, groups=(6, 3), options="initial_state", softplus=False, merge="mean"),
)  # fmt: skip
