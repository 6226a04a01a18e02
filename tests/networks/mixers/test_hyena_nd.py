"""Hyena: both forms of its long convolution agree, nothing wraps round, and a filter depends on offsets alone."""

from __future__ import annotations

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks.contract import Context
from medseg.networks.cost import COUNTS
from medseg.networks.mixers.hyena_nd import HyenaND, direct_convolution, fourier_convolution
from tests.networks.agreement import OnTokens, randomise, site

GRIDS = [(1, 1, 1), (5, 1, 1), (4, 6, 1), (3, 5, 7), (8, 8, 8)]


def weights(grid: tuple[int, int, int], channels: int) -> torch.Tensor:
    return torch.randn(*[2 * side - 1 for side in grid], channels)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fourier_and_direct_form_agree_in_outputs_and_gradients(grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    v, weight, grad = torch.randn(2, *grid, 3), weights(grid, 3), torch.randn(2, *grid, 3)
    results = []
    for form in (fourier_convolution, direct_convolution):
        leaves = [v.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = form(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, grad)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("form", [fourier_convolution, direct_convolution])
def test_a_token_is_seen_by_its_offset_and_not_round_the_edge(form) -> None:
    weight, v = weights((3, 4, 2), 1), torch.zeros(1, 3, 4, 2, 1)
    v[0, 0, 1, 1] = 1.0
    y = form(v, weight)
    for x in range(3):
        for column in range(4):
            for z in range(2):
                expected = weight[x - 0 + 2, column - 1 + 3, z - 1 + 1]
                torch.testing.assert_close(y[0, x, column, z], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_mixer_is_the_same_when_it_is_traced(dims: int) -> None:
    torch.manual_seed(0)
    mixer = randomise(OnTokens(HyenaND(site(6, dims=dims))))
    x = torch.randn(1, 4, 5, 1 if dims == 2 else 3, 6)
    traced = torch.jit.trace(mixer, x, check_trace=False)
    assert "fft" not in str(traced.graph)
    with torch.no_grad():
        assert (traced(x) - mixer(x)).abs().max() <= 1e-5 * mixer(x).abs().max()


def test_a_filter_of_a_small_grid_is_the_middle_of_that_of_a_large_one() -> None:
    mixer = HyenaND(site(6, dims=3))
    large, small = mixer.filters(5, 6, 4), mixer.filters(3, 3, 3)
    torch.testing.assert_close(large[:, 2:7, 3:8, 1:6], small)


def test_a_first_filter_keeps_the_variance_and_the_order_is_the_number_of_convolutions() -> None:
    torch.manual_seed(0)
    mixer, v = HyenaND(site(24, dims=3), order=3), torch.randn(1, 16, 16, 16, 24)
    filters = mixer.filters(16, 16, 16)
    assert filters.shape == (3, 31, 31, 31, 24)
    ratio = fourier_convolution(v, filters[0]).std() / v.std()
    assert 0.1 < ratio < 3
    assert mixer(v, Context())[0].shape == v.shape


def test_transforms_are_counted_by_their_points() -> None:
    forward, back = COUNTS[torch.ops.aten._fft_r2c], COUNTS[torch.ops.aten._fft_c2r]
    assert forward([2, 8, 8, 3], [1, 2]) == 2.5 * 2 * 64 * 3 * 6
    assert back([2, 8, 5, 3], [1, 2], out_shape=[2, 8, 8, 3]) == forward([2, 8, 8, 3], [1, 2])


@pytest.mark.parametrize("options", [{"order": 0}, {"kernel": 4}, {"filter_width": 0}, {"bands": 0}], ids=str)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="hyena_nd: found"):
        HyenaND(site(6, dims=3), **options)
