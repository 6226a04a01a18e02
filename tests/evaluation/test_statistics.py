"""Intervals cover what they say they cover; paired differences see what unpaired ones cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medseg.evaluation.statistics import holm, mean_interval, paired_difference


def test_t_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(0.85, 0.05, 12)
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.std == pytest.approx(values.std(ddof=1))


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_interval_covers_the_truth_about_95_times_in_100(method: str) -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        found = mean_interval(generator.normal(0.8, 0.1, 30), method=method, seed=i)  # type: ignore[arg-type]
        hits += found.low <= 0.8 <= found.high
    assert 180 <= hits <= 199


def test_undefined_values_are_counted_apart() -> None:
    found = mean_interval([0.5, math.nan, 0.7, math.nan])
    assert (found.mean, found.count, found.undefined) == (pytest.approx(0.6), 2, 2)
    nothing = mean_interval([math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.count, nothing.undefined) == (0, 1)
    assert math.isnan(mean_interval([0.5]).low)


def test_same_seed_same_bootstrap() -> None:
    values = np.random.default_rng(2).random(20)
    first, again, other = (mean_interval(values, method="bootstrap", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_pairing_finds_a_small_steady_gain() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0.8, 0.1, 40)
    gain = paired_difference(hard + generator.normal(0.01, 0.003, 40), hard)
    assert 0 < gain.low < gain.mean < gain.high < 0.02
    assert gain.p_value < 1e-5
    assert gain.better > 35


def test_equal_models_do_not_differ() -> None:
    same = paired_difference([0.8, 0.9, 0.7], [0.8, 0.9, 0.7])
    assert (same.mean, same.p_value, same.better, same.worse) == (0.0, 1.0, 0, 0)


def test_a_pair_with_an_undefined_side_is_dropped_and_counted() -> None:
    found = paired_difference([0.8, math.nan, 0.7], [0.7, 0.9, 0.6])
    assert (found.count, found.dropped) == (2, 1)
    with pytest.raises(ValueError, match="3 against 2"):
        paired_difference([1, 2, 3], [1, 2])


def test_holm_known_answer() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([math.nan, 0.5])[0])


def test_an_interval_holds_possible_values_only() -> None:
    scores = [1.0, 1.0, 0.8]
    assert mean_interval(scores).high > 1
    found = mean_interval(scores, bounds=(0.0, 1.0))
    assert found.high == 1.0
    assert found.low == mean_interval(scores).low
