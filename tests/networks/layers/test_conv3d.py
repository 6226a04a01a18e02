from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.networks.layers.conv3d import Conv3d


@pytest.mark.parametrize("grid", [(2, 2, 2), (2, 8, 8), (1, 1, 1), (3, 4, 3), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradients_in_bfloat16_agree_with_float32(grid: tuple[int, int, int], stride: int) -> None:
    torch.manual_seed(0)
    convolution = Conv3d(16, 32, 3, stride=stride, padding=1)
    image = torch.randn(2, 16, *grid)
    expected_out = nn.Conv3d.forward(convolution, image)
    seed = torch.randn_like(expected_out)
    expected = torch.autograd.grad(expected_out, convolution.weight, seed)[0]
    for _ in range(5):  # the fault reads stale memory, so that it differs from call to call
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = convolution(image)
        found = torch.autograd.grad(out, convolution.weight, seed.to(out.dtype))[0]
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_it_scripts_to_a_plain_convolution() -> None:
    convolution = Conv3d(2, 3, 3, padding=1).eval()
    image = torch.randn(1, 2, 4, 4, 4)
    torch.testing.assert_close(torch.jit.script(convolution)(image), convolution(image))
