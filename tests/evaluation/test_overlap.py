"""Counts of the joint histogram against counting by hand, and what empty labels give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.errors import GridMismatchError, LabelError
from medseg.evaluation.overlap import (
    OverlapCounts,
    dice,
    iou,
    joint_histogram,
    label_counts,
    relative_volume_error,
)


def _maps(shape: tuple[int, ...], labels: list[int], dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return tuple(generator.choice(np.array(labels, dtype=dtype), size=shape) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("order", ["C", "F", "mixed"])
@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0, -100, 100], "int8"),
        ([0, 1, 2], "uint8"),
        ([0, 3, 250], "uint8"),
        ([0, -5, 900], "int16"),
        ([0, 7, 10**9], "int64"),
    ],
)
def test_histogram_equals_counting_each_pair(labels: list[int], dtype: str, order: str) -> None:
    reference, prediction = _maps((13, 7, 5), labels, dtype)
    if order != "C":
        reference = np.asfortranarray(reference)
    if order == "F":
        prediction = np.asfortranarray(prediction)
    expected = [[int(((reference == a) & (prediction == b)).sum()) for b in labels] for a in labels]
    assert joint_histogram(reference, prediction, labels).tolist() == expected


def test_histogram_of_more_voxels_than_one_slab() -> None:
    reference, prediction = _maps((80, 70, 60), [0, 1, 4], "uint8")
    table = joint_histogram(reference, prediction, [0, 1, 4])
    assert table.sum() == reference.size
    assert table[2, 1] == int(((reference == 4) & (prediction == 1)).sum())


def test_region_counts_are_those_of_the_union() -> None:
    reference, prediction = _maps((9, 9, 9), [0, 1, 2, 3], "uint8")
    counts = label_counts(joint_histogram(reference, prediction, [0, 1, 2, 3]), [1, 3])
    left, right = np.isin(reference, [1, 3]), np.isin(prediction, [1, 3])
    assert counts == OverlapCounts(int(left.sum()), int(right.sum()), int((left & right).sum()))


def test_known_ratios() -> None:
    counts = OverlapCounts(reference=30, prediction=10, both=10)
    assert dice(counts) == 0.5
    assert iou(counts) == pytest.approx(1 / 3)
    assert relative_volume_error(counts) == pytest.approx(-2 / 3)


def test_empty_label_is_zero_or_undefined_and_never_one() -> None:
    false_positive, missed, absent = OverlapCounts(0, 5, 0), OverlapCounts(5, 0, 0), OverlapCounts(0, 0, 0)
    assert dice(false_positive) == dice(missed) == iou(missed) == 0.0
    assert math.isnan(dice(absent))
    assert math.isnan(iou(absent))
    assert math.isnan(relative_volume_error(false_positive))
    assert [counts.absent for counts in (false_positive, missed, absent)] == [
        "label absent from reference",
        "label absent from prediction",
        "label absent from reference and prediction",
    ]


@pytest.mark.parametrize("side", ["reference", "prediction"])
def test_unlisted_value_is_named_with_its_side(side: str) -> None:
    good, bad = np.zeros((4, 4, 4), np.uint8), np.full((4, 4, 4), 9, np.uint8)
    pair = (bad, good) if side == "reference" else (good, bad)
    with pytest.raises(LabelError, match=rf"the {side} holds the values \[9\]"):
        joint_histogram(*pair, [0, 1])


def test_ignored_reference_voxels_are_counted_nowhere() -> None:
    reference, prediction = np.array([0, 1, 255, 255]), np.array([0, 1, 1, 0])
    assert joint_histogram(reference, prediction, [0, 1], ignore_label=255).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(LabelError, match="reference"):
        joint_histogram(np.array([0, 255, 7]), np.array([0, 1, 1]), [0, 1], ignore_label=255)


def test_other_shapes_and_fractions_are_refused() -> None:
    with pytest.raises(GridMismatchError, match="both must lie on one grid"):
        joint_histogram(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), [0])
    with pytest.raises(LabelError, match="float64"):
        joint_histogram(np.zeros(3), np.zeros(3, np.uint8), [0])


def test_boolean_maps_count_like_zeros_and_ones() -> None:
    reference, prediction = np.array([False, True, True]), np.array([False, False, True])
    assert joint_histogram(reference, prediction, [0, 1]).tolist() == [[1, 0], [1, 1]]
    assert joint_histogram(reference, prediction, [1, 0]).tolist() == [[1, 1], [0, 1]]
