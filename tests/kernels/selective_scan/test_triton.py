"""The GPU kernels of the selective scan, run by triton's interpreter: outputs, last states and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg_kernels import dispatch
from tests.kernels.interpreter import run_cases

pytestmark = pytest.mark.skipif(dispatch.triton_missing() is not None, reason="triton is not installed")
FP32 = 1e-4  # the bound for triton; measured 4e-7
FP16 = 2e-2


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return run_cases(Path(__file__).with_name("interpreter_cases.py"))


def test_kernels_equal_the_reference(results: dict[str, Any]) -> None:
    cases = {name: value for name, value in results.items() if name not in ("half_precision", "repeated", "played")}
    assert len(cases) == 11
    assert {name: value for name, value in cases.items() if not value < FP32} == {}


def test_float16_is_computed_in_float32(results: dict[str, Any]) -> None:
    assert results["half_precision"] < FP16


def test_a_call_that_is_played_gives_what_it_gives_as_written(results: dict[str, Any]) -> None:
    assert results["played"] is True


def test_repeated_runs_are_bit_identical(results: dict[str, Any]) -> None:
    assert results["repeated"] is True
