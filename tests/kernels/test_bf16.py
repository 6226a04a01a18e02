"""The GPU kernels in bfloat16 keep to their bounds, by triton's interpreter mended for bfloat16: no GPU is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg_kernels import dispatch
from tests.kernels.interpreter import run_cases


@pytest.mark.skipif(dispatch.triton_missing() is not None, reason="triton is not installed")
def test_bfloat16_keeps_to_its_bounds() -> None:
    found = run_cases(Path(__file__).with_name("interpreted_bf16.py"))
    assert {name: value for name, value in found["largest"].items() if not value < found["bound"]} == {}
    assert {name: value for name, value in found["root_mean_square"].items() if not value < 5e-3} == {}
    assert len(found["largest"]) == 6
