"""Scores as people read them: two digits, and the interval in which the mean lies, `0.79 (0.74 to 0.84)`.

The full numbers stand in the JSON and CSV files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

DIGITS = 2
MOST_DIGITS = 5  # of a difference whose interval ends close to 0


def two_digits(value: float) -> str:
    """One number with two digits; a dash where it is not defined.

    Example:
        >>> two_digits(0.7949), two_digits(-0.001), two_digits(float("nan"))
        ('0.79', '0.00', '-')
    """
    return "-" if math.isnan(value) else f"{value:z.{DIGITS}f}"


def interval(mean: float, low: float, high: float) -> str:
    """A mean with its confidence interval; the mean alone where one case gives no interval.

    Example:
        >>> interval(0.7949, 0.744, 0.8351)
        '0.79 (0.74 to 0.84)'
    """
    if math.isnan(mean):
        return "not defined"
    return two_digits(mean) + ("" if math.isnan(low) else f" ({two_digits(low)} to {two_digits(high)})")


def difference(mean: float, low: float, high: float) -> str:
    """A difference with its interval, signed: as many digits as it takes to see on which side of 0 a bound lies.

    Example:
        >>> difference(0.0212, 0.0003, 0.0411), difference(0.1, -0.2, 0.4)
        ('+0.0212 (+0.0003 to +0.0411)', '+0.10 (-0.20 to +0.40)')
    """
    if math.isnan(mean):
        return "not defined"
    bounds = [] if math.isnan(low) else [low, high]
    near = [abs(bound) for bound in bounds if bound]
    digits = next((d for d in range(DIGITS, MOST_DIGITS) if all(round(n, d) for n in near)), MOST_DIGITS)
    text = [f"{value:+z.{digits}f}" for value in (mean, *bounds)]
    return text[0] + (f" ({text[1]} to {text[2]})" if bounds else "")


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under a header for the terminal, each column as wide as its widest cell.

    Example:
        >>> print(text_table(["label", "Dice"], [["liver", "0.96"]]))
        label  Dice
        liver  0.96
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
