"""Numbers over cases: means with confidence intervals, and whether two models differ on the same cases.

A score without its spread is not publishable, and two models are compared case by case: the spread between patients is
usually larger than the difference between models, and pairing removes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000  # the ends of a 95 % percentile interval then move by about 1 % of its width between seeds
Method = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        mean: NaN without values.
        low: lower end; NaN with fewer than two values.
        high: upper end.
        std: sample standard deviation (n - 1).
        median: the middle value.
        count: values that were defined.
        undefined: values that were NaN and are in none of the numbers above.
    """

    mean: float
    low: float
    high: float
    std: float
    median: float
    count: int
    undefined: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairedDifference:
    """Model A minus model B on the same cases.

    Args:
        mean: mean of the differences.
        low: lower end of its confidence interval.
        high: upper end.
        p_value: two-sided Wilcoxon signed-rank test; 1.0 when no case differs, NaN with fewer than two pairs.
        count: pairs with both values defined.
        dropped: pairs left out since one value is NaN.
        better: cases in which A is larger.
        worse: cases in which B is larger.
    """

    mean: float
    low: float
    high: float
    p_value: float
    count: int
    dropped: int
    better: int
    worse: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dictionary for JSON."""
        return asdict(self)


def mean_interval(
    values: ArrayLike,
    *,
    level: float = 0.95,
    method: Method = "t",
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Mean of the defined values with its confidence interval.

    Args:
        values: one number per case; NaN means not defined and is counted apart.
        level: coverage, in (0, 1).
        method: `t` is Student's interval; `bootstrap` resamples the cases (percentile interval), which is better for
            skewed scores such as distances.
        seed: of the bootstrap; the same seed gives the same interval.
        bounds: the values that are possible at all. The interval is cut to them: Student's interval of a few scores near 1
            would reach beyond it. What is cut off holds no possible mean, so that the coverage stays.

    Example:
        >>> mean_interval([0.8, 0.9, float("nan")]).count
        2
    """
    everything = np.asarray(values, dtype=np.float64).ravel()
    defined = everything[~np.isnan(everything)]
    undefined = len(everything) - len(defined)
    if not len(defined):
        return Interval(math.nan, math.nan, math.nan, math.nan, math.nan, 0, undefined)
    mean, median = float(defined.mean()), float(np.median(defined))
    if len(defined) == 1:
        return Interval(mean, math.nan, math.nan, math.nan, median, 1, undefined)
    low, high = np.clip(_interval(defined, level, method, seed), *bounds).tolist()
    return Interval(mean, low, high, float(defined.std(ddof=1)), median, len(defined), undefined)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, method: Method = "bootstrap", seed: int = 0
) -> PairedDifference:
    """Difference a - b over the same cases: mean, confidence interval and signed-rank test.

    Args:
        a: one score per case of the first model.
        b: scores of the second model, case by case in the same order.
        level: coverage of the interval.
        method: as in `mean_interval`.
        seed: of the bootstrap.

    Raises:
        ValueError: the two have different numbers of cases.
    """
    first, second = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if len(first) != len(second):
        raise ValueError(f"paired scores need the same cases: {len(first)} against {len(second)}")
    differences = first - second
    kept = differences[~np.isnan(differences)]
    summary = mean_interval(kept, level=level, method=method, seed=seed)
    return PairedDifference(
        mean=summary.mean,
        low=summary.low,
        high=summary.high,
        p_value=_signed_rank(kept),
        count=len(kept),
        dropped=len(differences) - len(kept),
        better=int((kept > 0).sum()),
        worse=int((kept < 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for the number of comparisons (Holm's step-down); NaN stays NaN and is not counted.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _interval(values: NDArray[np.float64], level: float, method: Method, seed: int) -> tuple[float, float]:
    if method == "t":
        from scipy.special import stdtrit  # scipy.stats takes half a second to import

        half = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * float(values.std(ddof=1)) / math.sqrt(len(values))
        return float(values.mean()) - half, float(values.mean()) + half
    if method != "bootstrap":
        raise ValueError(f"method is 't' or 'bootstrap', not {method!r}")
    generator = np.random.Generator(np.random.Philox(seed))
    picks = generator.integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _signed_rank(differences: NDArray[np.float64]) -> float:
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, zero_method="wilcox").pvalue)
