"""Surface distances: known answers, both search paths against brute force, and MONAI as an independent judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medseg.errors import GridMismatchError
from medseg.evaluation import surface
from medseg.evaluation.surface import (
    average_surface_distance,
    hausdorff_distance,
    label_surface_distances,
    surface_dice,
    surface_distances,
)

SPACING = (1.0, 0.8, 2.5)


def _ball(shape: tuple[int, ...], center: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.asarray(((grid - np.array(center)) ** 2).sum(-1) <= radius**2)


def _maps() -> tuple[np.ndarray, np.ndarray]:
    """Two maps with a large, a touching and a tiny label, on an anisotropic odd grid."""
    shape = (33, 29, 17)
    reference, prediction = np.zeros((2, *shape), np.uint8)
    for array, shift in ((reference, 0), (prediction, 1)):
        array[_ball(shape, (12 + shift, 12, 8), 7)] = 1
        array[_ball(shape, (22, 14 + 2 * shift, 8), 6)] = 2
        array[_ball(shape, (3 + 3 * shift, 25, 3), 1)] = 5
    return reference, prediction


def _outline(mask: np.ndarray) -> np.ndarray:
    """Surface voxels by the definition, in plain Python."""
    padded = np.pad(mask, 1)
    inside = np.ones_like(mask)
    for axis in range(mask.ndim):
        if mask.shape[axis] > 1:
            for shift in (1, -1):
                inside &= np.roll(padded, shift, axis)[(slice(1, -1),) * mask.ndim]
    return np.argwhere(mask & ~inside)


@pytest.mark.parametrize("cost", [1e-9, 1e9], ids=["tree", "transform"])
def test_both_searches_equal_brute_force(cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "QUERY_IN_VOXELS", cost)
    reference, prediction = _maps()
    found = label_surface_distances(reference, prediction, [1, 2, 5], spacing=SPACING)
    for label in (1, 2, 5):
        table = cdist(_outline(reference == label) * SPACING, _outline(prediction == label) * SPACING)
        assert np.sort(found[label].from_reference) == pytest.approx(np.sort(table.min(1)))
        assert np.sort(found[label].from_prediction) == pytest.approx(np.sort(table.min(0)))
        assert (found[label].num_reference, found[label].num_prediction) == table.shape


def test_memory_order_of_files_changes_nothing() -> None:
    reference, prediction = _maps()
    plain = label_surface_distances(reference, prediction, [1, 5], spacing=SPACING)
    turned = label_surface_distances(
        np.asfortranarray(reference), np.asfortranarray(prediction), [1, 5], spacing=SPACING
    )
    for label in (1, 5):
        assert np.sort(turned[label].from_reference) == pytest.approx(np.sort(plain[label].from_reference))


def test_equal_masks_have_distance_zero() -> None:
    ball = _ball((15, 15, 15), (7, 7, 7), 5)
    found = surface_distances(ball, ball, spacing=SPACING)
    assert hausdorff_distance(found) == average_surface_distance(found) == 0.0
    assert surface_dice(found, tolerance_mm=0.0) == 1.0


def test_two_voxels_have_the_distance_of_their_centres() -> None:
    left, right = np.zeros((2, 9, 9, 9), dtype=bool)
    left[1, 1, 1] = right[4, 1, 5] = True
    found = surface_distances(left, right, spacing=(2.0, 1.0, 2.0))
    assert hausdorff_distance(found, percentile=100) == average_surface_distance(found) == 10.0
    assert surface_dice(found, tolerance_mm=10.0) == 1.0
    assert surface_dice(found, tolerance_mm=9.9) == 0.0


def test_single_slice_is_an_outline() -> None:
    square = np.zeros((9, 9, 1), dtype=bool)
    square[2:7, 2:7] = True
    assert surface_distances(square, square, spacing=(1, 1, 1)).num_reference == 16


def test_empty_sides() -> None:
    nothing, ball = np.zeros((9, 9, 9), dtype=bool), _ball((9, 9, 9), (4, 4, 4), 3)
    missed = surface_distances(ball, nothing, spacing=(1, 1, 1))
    assert math.isnan(hausdorff_distance(missed))
    assert math.isnan(average_surface_distance(missed))
    assert surface_dice(missed, tolerance_mm=1) == 0.0
    assert missed.num_reference > 0
    assert math.isnan(surface_dice(surface_distances(nothing, nothing, spacing=(1, 1, 1)), tolerance_mm=1))


def test_grids_must_agree() -> None:
    with pytest.raises(GridMismatchError, match="one grid"):
        surface_distances(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool), spacing=(1, 1, 1))
    with pytest.raises(GridMismatchError, match="spacing 2 numbers"):
        surface_distances(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool), spacing=(1, 1))


def test_equals_monai() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    reference, prediction = _maps()
    found = label_surface_distances(reference, prediction, [1, 2, 5], spacing=SPACING)
    one_hot = [torch.from_numpy(np.stack([m == k for k in (0, 1, 2, 5)]))[None] for m in (prediction, reference)]
    hd95 = metrics.compute_hausdorff_distance(*one_hot, percentile=95, spacing=SPACING)[0]
    asd = metrics.compute_average_surface_distance(*one_hot, symmetric=True, spacing=SPACING)[0]
    nsd = metrics.compute_surface_dice(*one_hot, [1.0] * 3, spacing=SPACING)[0]
    for i, label in enumerate((1, 2, 5)):
        assert hausdorff_distance(found[label]) == pytest.approx(float(hd95[i]), abs=1e-3)
        assert average_surface_distance(found[label]) == pytest.approx(float(asd[i]), abs=1e-3)
        assert surface_dice(found[label], tolerance_mm=1.0) == pytest.approx(float(nsd[i]), abs=1e-3)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("step", [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.78125, 1.1])
def test_a_tolerance_of_whole_voxels_takes_them_in_and_no_further_one(step: float, single: bool) -> None:
    spacing = float(np.float32(step)) if single else step
    for count in range(1, 8):
        reference, prediction = np.zeros((2, 24, 1, 1), dtype=bool)
        reference[5], prediction[5 + count] = True, True
        found = surface_distances(reference, prediction, spacing=(spacing, 1, 1))
        assert surface_dice(found, tolerance_mm=round(step * count, 6)) == 1.0
        assert surface_dice(found, tolerance_mm=step * (count - 0.001)) == 0.0
