"""Does the order by confidence put the bad cases last? Risk over coverage, and the area under it.

Source: Geifman and El-Yaniv 2017; normalised as in Zenk et al. 2025: 0 is the order of an oracle, 1 that of chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def risk_coverage(confidence: ArrayLike, risk: ArrayLike) -> NDArray[np.float64]:
    """(n,) mean risk (1 - Dice) of the 1, 2 ... n most confident cases."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    found: NDArray[np.float64] = np.cumsum(np.asarray(risk, dtype=np.float64)[order]) / np.arange(1, len(order) + 1)
    return found


def normalised_area(confidence: Sequence[float], risk: Sequence[float]) -> float:
    """Area under the curve: 0 for the oracle's order, 1 on average for a random one, above 1 for worse; NaN if all are alike.

    Example:
        >>> normalised_area([3, 2, 1], [0.1, 0.2, 0.3])
        0.0
    """
    if len(risk) < 2:
        return float("nan")
    area, best = risk_coverage(confidence, risk).mean(), risk_coverage(-np.asarray(risk), risk).mean()
    chance = float(np.mean(risk))
    return float((area - best) / (chance - best)) if chance > best else float("nan")
