"""Every op and dtype on a real GPU against float64, from the CPU's tables of cases; and that the cases themselves are sound."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.gpu_cases import CASES, DTYPES, TINY, GpuCase, check, wrong


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.name}")
def test_equals_float64_and_itself(case: GpuCase, dtype: torch.dtype) -> None:
    assert wrong(check(case, dtype, "cuda", "triton"), dtype) == {}


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.family)
def test_the_cases_are_sound_on_a_cpu(case: GpuCase) -> None:
    for dtype in DTYPES:
        assert wrong(check(case, dtype, "cpu", "reference"), dtype) == {}
