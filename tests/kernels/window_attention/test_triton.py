"""The Triton kernels, in the interpreter and compiled ahead of time: no GPU is needed for either."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.interpreter import run_cases


def test_interpreter() -> None:
    pytest.importorskip("triton")
    found = run_cases(Path(__file__).with_name("interpreter_cases.py"))
    limits = {"float32": 1e-4, "float16": 2e-2}
    wrong = {
        case: result
        for case, result in found.items()
        if not all(value < limits[case.split()[-1]] for value in result.values())  # also where it is NaN
    }
    assert found, "no case ran"
    assert not wrong
