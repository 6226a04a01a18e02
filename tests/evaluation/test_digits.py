"""Scores are shown with two digits, also a difference; its sign tells the side of 0."""

from __future__ import annotations

import math

import pytest

from medseg.evaluation.digits import difference, interval, text_table, two_digits


def test_a_mean_and_its_interval_have_two_digits() -> None:
    assert interval(0.7949, 0.744, 0.8351) == "0.79 (0.74 to 0.84)"
    assert interval(0.7949, math.nan, math.nan) == "0.79"
    assert interval(math.nan, math.nan, math.nan) == "not defined"
    assert [two_digits(value) for value in (12.345, -0.004, math.nan)] == ["12.35", "0.00", "-"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((0.1, 0.05, 0.2), "+0.10 (+0.05 to +0.20)"),
        ((0.004, 0.001, 0.009), "+0.00 (+0.00 to +0.01)"),
        ((0.0, 0.0, 0.0), "0.00 (0.00 to 0.00)"),
        ((0.02, -0.0004, 0.05), "+0.02 (-0.00 to +0.05)"),
        ((0.5, math.nan, math.nan), "+0.50"),
        ((math.nan, math.nan, math.nan), "not defined"),
    ],
)
def test_the_side_of_zero_on_which_a_difference_lies_is_not_rounded_away(
    found: tuple[float, float, float], text: str
) -> None:
    assert difference(*found) == text


def test_columns_of_a_table_are_as_wide_as_their_widest_cell() -> None:
    assert text_table(["a", "b"], [["long", "1"], ["x", ""]]).splitlines() == ["a     b", "long  1", "x"]
