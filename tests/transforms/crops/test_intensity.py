"""Intensity changes: what each of them must keep, and scipy as a judge of the smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseg.transforms.crops import intensity


def _channel(shape: tuple[int, ...] = (13, 11, 9)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(13, 11, 9), (5, 4, 1), (1, 1, 7)], ids=str)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7])
def test_blur_is_scipys(shape: tuple[int, ...], sigma: float) -> None:
    channel = _channel(shape)
    sigmas = [sigma if n > 1 else 0.0 for n in shape]
    expected = gaussian_filter(channel.numpy().astype(np.float64), sigmas, mode="nearest", truncate=6)
    intensity.blur(channel, sigma)
    np.testing.assert_allclose(channel.numpy(), expected, atol=2e-3)


def test_noise_has_the_asked_width_and_is_repeatable() -> None:
    first, second = torch.zeros(40, 40, 40), torch.zeros(40, 40, 40)
    intensity.add_noise(first, 0.3, 5)
    intensity.add_noise(second, 0.3, 5)
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(first.mean())) < 0.005


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_deviation_and_order(inverted: bool) -> None:
    channel = _channel()
    before = channel.clone()
    intensity.change_gamma(channel, 1.4, inverted=inverted)
    assert float(channel.mean()) == pytest.approx(float(before.mean()), abs=1e-4)
    assert float(channel.std()) == pytest.approx(float(before.std()), rel=1e-4)
    assert not torch.allclose(channel, before, atol=0.05)
    order = before.flatten().argsort()
    assert bool((channel.flatten()[order].diff() >= -1e-6).all())


def test_contrast_keeps_the_range() -> None:
    channel = _channel()
    low, high = channel.aminmax()
    intensity.stretch_contrast(channel, 1.25)
    assert (channel.min(), channel.max()) == (low, high)


def test_a_flat_crop_survives_everything() -> None:
    for value in (0.0, 3.5):
        channel = torch.full((6, 5, 4), value)
        intensity.change_gamma(channel, 0.7)
        intensity.stretch_contrast(channel, 1.2)
        intensity.blur(channel, 1.0)
        intensity.lose_resolution(channel, 0.5)
        assert torch.allclose(channel, torch.full_like(channel, value), atol=1e-5)


def test_low_resolution_removes_fine_detail_only() -> None:
    axis = torch.arange(32.0)
    coarse = torch.sin(axis / 32 * 2 * np.pi)[:, None, None].expand(32, 32, 32).clone()
    fine = (axis % 2)[:, None, None].expand(32, 32, 32).clone()
    before = coarse.clone()
    intensity.lose_resolution(coarse, 0.5)
    intensity.lose_resolution(fine, 0.5)
    assert float((coarse - before).abs().mean()) < 0.15
    assert float(fine.std()) < 0.1
