"""The short convolution: every backend against a loop over tokens and taps, its op, its bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from medseg_kernels import cpu_build, dispatch, short_conv
from medseg_kernels.short_conv.op import conv_op
from medseg_kernels.traversals.tables import SEPARATOR
from tests.kernels.interpreter import run_cases
from tests.kernels.selective_scan.cases import error
from tests.kernels.short_conv.cases import CASES, Case

BACKENDS = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(cpu_build.why_not() is not None, reason="no compiler")),
]
needs_triton = pytest.mark.skipif(dispatch.triton_missing() is not None, reason="triton is not installed")


def settings(case: Case, backend: str | None) -> tuple[Any, ...]:
    return case.grid, SEPARATOR.join(case.traversals), case.mode, case.kernel, case.silu, backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_and_gradients_equal_the_loop(case: Case, backend: str) -> None:
    exact = [None if x is None else x.requires_grad_() for x in case.inputs(torch.float64)]
    expected = case.truth(*exact)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, [x for x in exact if x is not None], grad)
    given = [None if x is None else x.requires_grad_() for x in case.inputs()]
    out = conv_op(*given, *settings(case, backend))
    found = torch.autograd.grad(out, [x for x in given if x is not None], grad.float())
    assert error(out, expected) < 1e-5
    assert max(error(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-5


@needs_triton
def test_kernels_equal_the_loop_in_the_interpreter() -> None:
    results = run_cases(Path(__file__).with_name("interpreter_cases.py"))
    assert len(results) == 7
    assert {name: value for name, value in results.items() if not value < 1e-4} == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_equals_a_padded_conv1d(backend: str) -> None:
    x, weight, bias = torch.randn(2, 1, 1, 9, 5), torch.randn(5, 4), torch.randn(5)
    sequence = functional.pad(x.flatten(1, 3).transpose(1, 2), (3, 0))
    expected = functional.conv1d(sequence, weight[:, None], bias, groups=5).transpose(1, 2).view(x.shape)
    assert error(short_conv(x, weight, bias, backend=backend), expected.double()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_grid_equals_conv3d(backend: str) -> None:
    x, weight = torch.randn(2, 4, 5, 6, 3), torch.randn(3, 3, 3, 3)
    expected = functional.conv3d(x.movedim(4, 1), weight[:, None], padding=1, groups=3).movedim(1, 4)
    assert error(short_conv(x, weight, mode="grid", backend=backend), expected.double()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_inputs_are_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 4, 5, 6).to(dtype), torch.randn(6, 4)
    out = short_conv(x, weight, silu=True, backend=backend)
    assert out.dtype == dtype
    assert error(out, short_conv(x.double(), weight.double(), silu=True, backend="reference")) < 2e-2
    extreme = short_conv(x * 1e4, weight, silu=True, backend=backend)
    assert not extreme.isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_traversals_equal_single_calls_and_views_equal_copies(backend: str) -> None:
    wide, weight, bias = torch.randn(2, 3, 4, 5, 9), torch.randn(2, 6, 3), torch.randn(2, 6)
    x, names = wide[..., 2:8], ["snake", "reversed morton"]
    together = short_conv(x, weight, bias, traversals=names, silu=True, backend=backend)
    for r, name in enumerate(names):
        alone = short_conv(x.contiguous(), weight[r], bias[r], traversals=[name], silu=True, backend=backend)
        assert torch.equal(together[:, r], alone)


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[6]], ids=lambda case: case.name)
def test_op_keeps_its_contract(case: Case) -> None:
    given = [None if x is None else x.requires_grad_() for x in case.inputs()]
    torch.library.opcheck(conv_op, (*given, *settings(case, None)))


def test_op_works_in_compiled_code() -> None:
    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return short_conv(x * 2, weight, traversals=["raster:ZYX"], silu=True).sin()

    compiled: Callable[..., torch.Tensor] = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for grid in ((3, 4, 5), (2, 6, 3)):
        x, weight = torch.randn(2, *grid, 4, requires_grad=True), torch.randn(4, 3, requires_grad=True)
        expected = torch.autograd.grad(call(x, weight).sum(), (x, weight))
        found = torch.autograd.grad(compiled(x, weight).sum(), (x, weight))
        assert all(error(a, b.double()) < 1e-5 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(2, 60, 6)}, "x: found"),
        ({"x": torch.randn(2, 3, 0, 5, 6)}, "x: found .*no empty axis"),
        ({"weight": torch.randn(5, 4)}, "weight: found"),
        ({"weight": torch.randn(3, 6, 4)}, "weight: found"),
        ({"weight": torch.ones(6, 4, dtype=torch.int32)}, "weight: found torch.int32"),
        ({"weight": torch.randn(6, 4), "mode": "grid"}, "weight: found .*kx"),
        ({"bias": torch.randn(5)}, "bias: found"),
        ({"mode": "valid"}, "mode: found 'valid'"),
        ({"traversals": ["spiral"]}, "unknown 'spiral'"),
        ({"backend": "fast"}, "unknown backend"),
    ],
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    given = {"x": torch.randn(2, 3, 4, 5, 6), "weight": torch.randn(6, 4), "bias": torch.randn(6)}
    with pytest.raises(ValueError, match=message):
        short_conv(**{**given, **change})
