"""Curves of `medseg stress`: where 0.05 of Dice is lost, what is not defined, and the report."""

from __future__ import annotations

import math

import pytest

from medseg.assurance.stress_curves import StressCurve, rows, stress_section
from medseg.transforms.shifts import SHIFTS

NAN = math.nan


def _curve(*dice: tuple[float, ...], name: str = "noise") -> StressCurve:
    return StressCurve.of(name, SHIFTS[name], dice)


def test_the_fall_lies_on_the_line_between_two_strengths() -> None:
    curve = _curve((0.9, 0.8), (0.89, 0.79), (0.82, 0.72), (0.5, 0.4), (0.1, 0.0))
    assert curve.changes() == pytest.approx([0, -0.01, -0.08, -0.4, -0.8])
    assert curve.falls_at() == pytest.approx(0.05 + 0.05 * (0.04 / 0.07))
    assert math.isnan(_curve((0.9,), (0.9,), (0.88,), (0.87,), (0.86,)).falls_at())


def test_the_thickness_begins_at_one_slice() -> None:
    curve = _curve((0.9, 0.9), (0.8, 0.8), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5), name="thickness")
    assert curve.strengths == (1.0, 2.0, 3.0, 4.0, 6.0)
    assert curve.falls_at() == pytest.approx(1.5)


def test_a_case_whose_labels_left_the_view_is_in_no_change() -> None:
    curve = _curve((0.9, 0.8), (0.9, NAN), (0.7, NAN), (NAN, NAN), (NAN, NAN), name="field_of_view")
    assert curve.changes()[:3] == pytest.approx([0, 0, -0.2])
    assert math.isnan(curve.changes()[3])
    assert curve.as_dict()["dice"][1] == [0.9, None]
    assert rows([curve])[0][3] == "not defined"


def test_what_is_felt_first_stands_on_top_and_each_shift_has_its_picture() -> None:
    mild = _curve((0.9, 0.8), (0.9, 0.8), (0.9, 0.8), (0.9, 0.8), (0.9, 0.8))
    harsh = _curve((0.9, 0.8), (0.8, 0.7), (0.6, 0.5), (0.3, 0.2), (0.1, 0.1), name="blur")
    assert [row[0] for row in rows([mild, harsh])] == ["blur", "noise"]
    page = stress_section([mild, harsh], notes=["two cases < 10"]).html()
    assert page.count("<svg") == 2
    assert "two cases &lt; 10" in page
