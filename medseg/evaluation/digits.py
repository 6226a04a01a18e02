"""Scores as people read them: two digits, and the interval in which the mean lies, `0.79 (0.74 to 0.84)`.

The full numbers stand in the JSON and CSV files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

DIGITS = 2


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
    """A difference with its interval; the sign tells on which side of 0 a bound lies, also where its digits are 0.

    Example:
        >>> difference(0.0212, -0.0003, 0.0411), difference(0.0, 0.0, 0.0)
        ('+0.02 (-0.00 to +0.04)', '0.00 (0.00 to 0.00)')
    """
    if math.isnan(mean):
        return "not defined"
    bounds = [] if math.isnan(low) else [low, high]
    text = [f"{value:+.{DIGITS}f}" if value else f"{0:.{DIGITS}f}" for value in (mean, *bounds)]
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
