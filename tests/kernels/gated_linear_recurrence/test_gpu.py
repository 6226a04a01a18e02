"""What only a real GPU shows of the recurrence, besides the cases of tests/kernels/test_gpu.py."""

from __future__ import annotations

import pytest
import torch

from medseg_kernels.gated_linear_recurrence import triton_launch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]


def test_few_heads_are_cut_into_segments() -> None:
    q = torch.empty(1, 110592, 6, 64, device="cuda")
    assert len(triton_launch.split([0, 110592], q, q)[1]) > 8
