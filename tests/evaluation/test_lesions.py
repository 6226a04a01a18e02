"""Lesion-wise detection on scenes whose counts can be read off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.evaluation.lesions import LesionCounts, count_lesions


def _scene() -> tuple[np.ndarray, np.ndarray]:
    truth, found = np.zeros((2, 20, 20, 20), dtype=bool)
    truth[1:5, 1:5, 1:5] = True  # 64 voxels, half of it found
    found[1:5, 1:5, 1:3] = True
    truth[10:15, 10:15, 10:15] = True  # 125 voxels, one of them touched
    found[14, 14, 14] = True
    found[18, 1, 1] = True  # made up
    return truth, found


def test_a_touch_is_no_detection() -> None:
    assert count_lesions(*_scene()) == LesionCounts(reference=2, prediction=3, detected=1, false_positives=1)


def test_any_overlap_detects_when_asked_for() -> None:
    assert count_lesions(*_scene(), min_overlap=1e-6).detected == 2


def test_corners_connect() -> None:
    chain = np.zeros((5, 5, 5), dtype=bool)
    chain[1, 1, 1] = chain[2, 2, 2] = True
    assert count_lesions(chain, chain).reference == 1


def test_ratios() -> None:
    counts = count_lesions(*_scene())
    assert counts.sensitivity == 0.5
    assert counts.precision == pytest.approx(2 / 3)
    assert counts.f1 == pytest.approx(2 / (2 + 1 + 1))


def test_nothing_anywhere_is_undefined() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    counts = count_lesions(empty, empty)
    assert counts == LesionCounts(0, 0, 0, 0)
    assert math.isnan(counts.sensitivity)
    assert math.isnan(counts.precision)
    assert math.isnan(counts.f1)
