"""One temperature repairs logits that are too sure by a factor, measured on cases that it was not learned on."""

from __future__ import annotations

import numpy as np

from medseg.assurance.calibration import Sampled, best_temperature, calibrate


def sampled(seed: int, factor: float, voxels: int = 600) -> Sampled:
    """Logits whose softmax is right, multiplied by a factor."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (voxels, 3))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([random.choice(3, p=row) for row in shares])
    return Sampled(logits * factor, truth, np.ones(voxels))


def test_the_factor_is_found_and_the_error_halved_on_other_cases() -> None:
    found = calibrate([sampled(seed, 2.5) for seed in range(12)])
    assert 2.2 < found.temperature < 2.8
    assert found.after < found.before / 2
    assert abs(sum(share for *_, share in found.bins) - 1) < 1e-9


def test_right_logits_stay_as_they_are() -> None:
    assert 0.9 < best_temperature([sampled(seed, 1.0) for seed in range(12)]) < 1.1


def test_one_case_teaches_nothing_and_says_so() -> None:
    found = calibrate([sampled(0, 2.0)])
    assert found.temperature == 1.0
    assert "two or more" in found.note
