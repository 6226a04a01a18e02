"""Intervals that hold their promise without a model of the errors: split conformal prediction.

Source: Vovk, Gammerman, Shafer 2005; Lei et al. 2018. Of n past errors the ceil((n + 1) 0.9)-th smallest is not exceeded by the
next case's with a chance of 90 %, whatever their distribution, as long as the next case is of the same kind as those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

COVERAGE = 0.9
FEWEST = 10  # cases; at nine the bound is already the largest error that was seen


def conformal_bound(errors: Sequence[float], coverage: float = COVERAGE) -> float | None:
    """The error that the next case stays within; None with fewer than ten past ones. NaN errors are left out.

    Example:
        >>> conformal_bound(range(1, 20))
        18.0
    """
    known = np.sort([error for error in errors if not math.isnan(error)])
    rank = math.ceil((len(known) + 1) * coverage)
    return None if len(known) < FEWEST or rank > len(known) else float(known[rank - 1])
