"""The sampler's arithmetic against the ideal denoiser of Gaussian data, and what makes a sample its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.synthesis.sampler import SamplerError, Steps, guided, noise_of, sample


def amplitude_error(spread: float, count: int, method: str = "heun") -> float:
    """Relative error of a direction's amplitude, for data of this spread: its ideal denoiser is a multiplication."""
    noise = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    made = sample(lambda x, s: x * spread**2 / (spread**2 + s**2), noise, Steps(count, method=method))
    exact = spread / (1 + (spread / 80.0) ** 2) ** 0.5
    return abs(float(made) / exact - 1)


def test_heun_is_within_the_measured_errors_and_of_second_order() -> None:
    errors = {count: amplitude_error(0.5, count) for count in (18, 36, 72)}
    assert errors[18] <= 0.06
    assert errors[36] <= 0.013
    assert errors[72] <= 0.0032
    assert 3.8 <= errors[18] / errors[36] <= 5
    assert 3.8 <= errors[36] / errors[72] <= 5


def test_euler_is_of_first_order_and_only_where_asked() -> None:
    assert Steps().method == "heun"
    assert amplitude_error(0.5, 36, "euler") == pytest.approx(0.078, abs=0.003)
    with pytest.raises(ConfigError, match="heun or euler"):
        Steps(method="midpoint")


def test_guidance_of_one_and_zero_are_the_two_denoisers_themselves() -> None:
    def first(x: Tensor, s: float) -> Tensor:
        return x / 3

    def second(x: Tensor, s: float) -> Tensor:
        return x / 7

    assert guided(first, second, 1.0) is first
    assert guided(first, second, 0.0) is second
    x = torch.ones(1)
    assert float(guided(first, second, 2.0)(x, 1.0)) == pytest.approx(1 / 7 + 2 * (1 / 3 - 1 / 7))


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    both = noise_of(4, [2, 9], (1, 3, 3, 3))
    assert torch.equal(both[1:], noise_of(4, [9], (1, 3, 3, 3)))
    assert not torch.equal(both[0], both[1])


def test_a_nan_is_named_by_its_step_and_sigma() -> None:
    def broken(x: Tensor, s: float) -> Tensor:
        return x * float("nan") if s < 1 else x / 2

    with pytest.raises(SamplerError, match=r"after step \d+ of 18, sigma \d"):
        sample(broken, torch.ones(1, 1, 2, 2, 2), Steps(18))
