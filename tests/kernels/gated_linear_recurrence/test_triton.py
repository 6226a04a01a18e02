"""The triton kernels without a GPU: run by triton's interpreter, and compiled ahead of time for real targets."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.kernels.interpreter import run_cases

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)

FLOAT32 = 1e-4  # largest error over largest value
HALF = 5e-3  # root mean square of the error over that of the value


@needs_triton
def test_interpreted_kernels_equal_the_reference() -> None:
    lines = run_cases(Path(__file__).with_name("interpreted.py"))
    assert len(lines) == 21
    for line in lines:
        for name, value in line["errors"].items():
            assert value < (HALF if line["half"] else FLOAT32), (line["name"], name, value)  # NaN fails too
        assert line.get("repeats", True), line["name"]
