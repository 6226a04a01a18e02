"""Adaptive means by products against torch's operators."""

import pytest
import torch
from torch.nn import functional

from medseg.networks.mixers.pooling import adaptive_mean, cubic


@pytest.mark.parametrize(("grid", "parts"), [((7, 5, 3), [4, 5, 1]), ((10, 14, 10), [4, 4, 4]), ((3, 2, 4), [5, 2, 3])])
def test_means_and_gradients_equal_torchs_adaptive_pooling(grid: tuple[int, ...], parts: list[int]) -> None:
    image = torch.randn(2, 3, *grid, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, *parts, dtype=torch.float64)
    ours, theirs = adaptive_mean(image, parts), functional.adaptive_avg_pool3d(image, parts)
    torch.testing.assert_close(ours, theirs)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), image)
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), image)[0], expected)


def test_two_axes_work_alike() -> None:
    image = torch.randn(1, 2, 9, 6)
    torch.testing.assert_close(adaptive_mean(image, [4, 6]), functional.adaptive_avg_pool2d(image, [4, 6]))


@pytest.mark.parametrize("grid", [(7, 7), (3, 11)])
def test_cubic_resizing_gives_torchs_bicubic_numbers(grid: tuple[int, int]) -> None:
    image = torch.randn(2, 3, 5, 9, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(image, grid, mode="bicubic", align_corners=False)
    assert (cubic(image, list(grid)) - expected).abs().max() <= 1e-12
    volume = image.unsqueeze(-1).expand(-1, -1, -1, -1, 4)
    assert (cubic(volume, [*grid, 6]) - expected.unsqueeze(-1)).abs().max() <= 1e-12
