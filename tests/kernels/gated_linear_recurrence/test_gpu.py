"""The triton kernels on a real GPU, where bf16 and the matrix units can be seen: outputs and gradients against float64."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.gated_linear_recurrence import triton_launch
from tests.kernels.gated_linear_recurrence.cases import DECAYS, WRITES, error, make_case, rms_ratio
from tests.kernels.gated_linear_recurrence.interpreted import run, truth

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_equals_float64(decay: str, write: str, dtype: torch.dtype) -> None:
    case = make_case(decay, write, size_b=1, size_n=2000, size_h=4, size_k=64, size_v=64, pieces=[0, 700, 700, 2000])
    case.order = torch.stack([torch.randperm(2000, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]).int()
    expected = truth(case)
    for name in ("q", "k", "v", "g", "beta", "initial_state", "order"):
        x = getattr(case, name)
        setattr(case, name, None if x is None else x.detach().cuda())
    found = run(case, dtype)
    again = run(case, dtype)
    for name, value in expected.items():
        assert torch.equal(found[name], again[name]), name
        if dtype == torch.float32:
            assert error(found[name], value) < 1e-4, name
        else:
            assert rms_ratio(found[name], value) < 5e-3, name


def test_few_heads_are_cut_into_segments() -> None:
    q = torch.empty(1, 110592, 6, 64, device="cuda")
    assert len(triton_launch.split([0, 110592], q, q)[1]) > 8
