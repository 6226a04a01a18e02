"""What difference a number of cases can show: power of the paired t test, which the permutation test follows closely.

Source: Cohen 1988; with d = difference / spread of the pairs and n pairs, t has n - 1 degrees and non-centrality d sqrt(n).
"""

from __future__ import annotations

import math

from medseg.errors import ConfigError

LEVEL = 0.05
WANTED = 0.8  # the chance of finding a difference that papers ask for


def power(difference: float, spread: float, pairs: int, *, level: float = LEVEL) -> float:
    """Chance that a true difference is found, two-sided.

    Args:
        difference: true mean difference of the score.
        spread: standard deviation of the differences between cases, not of the scores.
        pairs: number of cases, at least 2.
        level: chance of finding one where there is none; divide it by the number of comparisons.

    Raises:
        ConfigError: fewer than two pairs, a negative spread, or a level that is no chance.

    Example:
        >>> round(power(0.01, 0.05, 208), 2)
        0.82
    """
    _check(spread, pairs, level)
    if spread == 0:
        return 1.0 if difference else level
    from scipy.special import nctdtr, stdtrit  # scipy.stats takes half a second to import

    shift = abs(difference) / spread * math.sqrt(pairs)
    cut = float(stdtrit(pairs - 1, 1 - level / 2))
    if shift > 30:  # the distribution of t has no digits left there
        return 1.0
    return min(1.0, max(level, 1.0 - float(nctdtr(pairs - 1, shift, cut)) + float(nctdtr(pairs - 1, shift, -cut))))


def detectable_difference(spread: float, pairs: int, *, level: float = LEVEL, wanted: float = WANTED) -> float:
    """The smallest true difference that is found with the wanted chance; arguments as in `power`.

    Example:
        >>> round(detectable_difference(0.05, 42), 3)
        0.022
    """
    _check(spread, pairs, level)
    if not level < wanted < 1:
        raise ConfigError(f"power: found {wanted}, expected a number between the level ({level}) and 1")
    if spread == 0:
        return 0.0
    low, high = 0.0, spread
    while power(high, spread, pairs, level=level) < wanted:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, spread, pairs, level=level) < wanted else (low, middle)
    return high


def _check(spread: float, pairs: int, level: float) -> None:
    if pairs < 2:
        raise ConfigError(f"power: found {pairs} pairs, expected two or more cases")
    if not spread >= 0:
        raise ConfigError(f"power: found a spread of {spread}, expected a number >= 0")
    if not 0 < level < 1:
        raise ConfigError(f"power: found a level of {level}, expected a number between 0 and 1")
