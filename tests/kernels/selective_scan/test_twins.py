"""The fast forms against the step-by-step reference in float64: outputs, last states and all gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medseg_kernels import cpu_build
from medseg_kernels.selective_scan import cpu
from medseg_kernels.selective_scan.chunked import chunked_scan
from medseg_kernels.selective_scan.chunked_backward import Inputs, chunked_scan_backward
from medseg_kernels.selective_scan.reference import reference_scan
from medseg_kernels.traversals.tables import split
from tests.kernels.selective_scan.cases import CASES, WINDOWED, Case, error, leaves, worst

needs_compiler = pytest.mark.skipif(cpu_build.why_not() is not None, reason=f"compiled kernels: {cpu_build.why_not()}")
FP32 = 1e-5  # largest error over largest value, issue's bound


def chunked_forward(given: Inputs, grid: Any, traversals: str, softplus: bool, merge: str, save: bool) -> Any:
    return chunked_scan(*given, list(grid), split(traversals), softplus, merge)


def chunked_backward(
    grad: Tensor, last: Tensor, given: Inputs, kept: Tensor, grid: Any, names: str, *more: Any
) -> Inputs:
    return chunked_scan_backward(grad, last, given, kept, grid, split(names), *more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_chunked_form_equals_reference(case: Case) -> None:
    assert max(worst(case, case.inputs(torch.float64), chunked_forward, chunked_backward).values()) < 1e-12
    assert max(worst(case, case.inputs(), chunked_forward, chunked_backward).values()) < FP32


@needs_compiler
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiled_form_equals_reference(case: Case, segments: int) -> None:
    def forward(*arguments: Any) -> Any:
        return cpu.forward(*arguments, segments=segments)

    assert max(worst(case, case.inputs(), forward, cpu.backward).values()) < FP32


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_compiled_form_with_any_number_of_threads(threads: int) -> None:
    case = Case(
        grid=(5, 6, 17), channels=70, state=16, batch=1, traversals=("snake", "reversed raster"), merge="concat"
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert max(worst(case, case.inputs(), cpu.forward, cpu.backward).values()) < FP32
    finally:
        torch.set_num_threads(before)


def with_threads(count: int, call: Any) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("merge", ["sum", "mean", "weights", "concat"])
def test_traversals_and_blocks_over_threads_change_no_bit(merge: str) -> None:
    """Up to one thread per block and traversal: no sum changes its order, whoever computes it."""
    case = Case(
        grid=(5, 6, 9), channels=9, state=16, batch=2, traversals=("snake", "reversed raster", WINDOWED), merge=merge
    )
    given = case.inputs()
    runs = [with_threads(n, lambda: cpu.forward(given, *case.settings(), True)) for n in (1, 2, 3, 6, 6)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@needs_compiler
@pytest.mark.parametrize("names", [("raster",), ("snake", "raster:ZYX"), (WINDOWED,)])
def test_few_channels_are_cut_into_segments_for_many_threads(names: tuple[str, ...]) -> None:
    case = Case(grid=(8, 9, 16), channels=3, state=4, batch=1, traversals=names)
    call = lambda: worst(case, case.inputs(), cpu.forward, cpu.backward)  # noqa: E731
    assert max(with_threads(8, call).values()) < FP32
    forward = lambda: cpu.forward(case.inputs(), *case.settings(), False)[0]  # noqa: E731
    assert torch.equal(with_threads(8, forward), with_threads(8, forward))


@needs_compiler
def test_compiled_form_writes_every_element(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: real(*size, **more).fill_(float("nan")))
    case = Case(
        grid=(3, 5, 7), channels=19, state=3, traversals=("raster", WINDOWED), merge="weights", each="delta read"
    )
    assert max(with_threads(4, lambda: worst(case, case.inputs(), cpu.forward, cpu.backward)).values()) < FP32


@needs_compiler
def test_compiled_form_with_strides_beyond_32_bits() -> None:
    """8 GiB of addresses, of which only the pages that are written become memory; B and C are expanded, with strides of 0."""
    case = Case(grid=(2, 2, 2), channels=5, state=4, batch=2, options="skip z")
    near = case.inputs()
    memory = torch.empty(2**31 + 100)
    far = memory.as_strided((2, 1, 8, 5), (2**31, 40, 5, 1))
    far.copy_(near.u)
    spread = [x[:, :, :1].expand(-1, -1, 8, -1, -1) for x in (near.write, near.read)]
    given = Inputs(far, near.delta, near.rate, *spread, *near[5:])
    assert max(worst(case, given, cpu.forward, cpu.backward).values()) < FP32


@needs_compiler
def test_compiled_form_on_a_long_sequence() -> None:
    """Against the chunked form in float64: the reference would take minutes. More than one chunk of either form."""
    case = Case(grid=(20, 16, 13), channels=24, state=16, batch=1, traversals=("raster:ZYX", "snake"))
    given = leaves(case.inputs(torch.float64))
    grid, names, softplus, merge = case.settings()
    out, last, kept = chunked_scan(*given, list(grid), split(names), softplus, merge)
    grad, grad_last = torch.randn_like(out), torch.randn_like(last)
    exact = chunked_scan_backward(grad, grad_last, given, kept, grid, split(names), softplus, merge)
    single = case.inputs()
    mine, mine_last, mine_kept = cpu.forward(single, *case.settings(), True)
    grads = cpu.backward(grad.float(), grad_last.float(), single, mine_kept, *case.settings())
    errors = [error(mine, out.detach()), error(mine_last, last.detach())]
    errors += [error(a, b.detach()) for a, b in zip(grads, exact, strict=True) if a is not None and b is not None]
    assert max(errors) < FP32


@pytest.mark.parametrize("case", [CASES[3], CASES[6], CASES[8]], ids=lambda case: case.name)
def test_gradients_of_the_reference(case: Case) -> None:
    small = Case(
        grid=(2, 3, 2), traversals=case.traversals, batch=1, channels=6 if len(case.groups) else 4, state=2, each=case.each,
        options=case.options, merge=case.merge,
    )  # fmt: skip
    given = leaves(small.inputs(torch.float64))
    present = [i for i, x in enumerate(given) if x is not None]

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        whole: list[Tensor | None] = [None] * len(given)
        for i, x in zip(present, tensors, strict=True):
            whole[i] = x
        return reference_scan(*whole, small.grid, list(small.traversals), small.softplus, small.merge)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(call, [given[i] for i in present])
