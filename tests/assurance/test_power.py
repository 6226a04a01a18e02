"""The power that is told is the share of draws in which the difference is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medseg.assurance import detectable_difference, power
from medseg.errors import ConfigError


@pytest.mark.parametrize(("difference", "pairs"), [(0.0, 30), (0.01, 30), (0.02, 42), (0.01, 208)])
def test_power_is_the_share_of_draws_found(difference: float, pairs: int) -> None:
    draws = np.random.default_rng(0).normal(difference, 0.05, (4000, pairs))
    found = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert power(difference, 0.05, pairs) == pytest.approx(found, abs=0.025)


def test_the_detectable_difference_has_the_wanted_power_and_falls_with_cases() -> None:
    least = [detectable_difference(0.05, pairs) for pairs in (10, 42, 208)]
    assert least == sorted(least, reverse=True)
    for pairs, found in zip((10, 42, 208), least, strict=True):
        assert power(found, 0.05, pairs) == pytest.approx(0.8, abs=1e-6)
    assert detectable_difference(0.05, 42, level=0.01) > least[1]
    assert detectable_difference(0.0, 42) == 0.0


@pytest.mark.parametrize("arguments", [(0.1, 0.05, 1), (0.1, -1.0, 5), (0.1, float("nan"), 5)])
def test_what_has_no_power_is_refused(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError, match="found"):
        power(*arguments)
    with pytest.raises(ConfigError, match="between the level"):
        detectable_difference(0.05, 42, wanted=0.01)
