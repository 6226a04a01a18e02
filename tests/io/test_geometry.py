"""Affines and grids."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import GeometryError, GridMismatchError
from medseg.io.geometry import check_affine, check_same_grid, grid_difference, orientation_of, same_grid, spacing_of
from medseg.io.header import Header, Volume
from medseg.io.resample import resample_to_grid


def volume(shape: tuple[int, ...], affine: np.ndarray, array: np.ndarray | None = None) -> Volume:
    array = np.zeros(shape, np.int16) if array is None else array
    return Volume(array, np.asarray(affine, dtype=np.float64), Header.of_array(shape, affine))


@pytest.mark.parametrize("angles", [(0, 0, 0), (0.3, -0.2, 0.1), (0.0, 0.5, -0.6)], ids=str)
def test_orientation_equals_nibabel_for_all_48(angles: tuple[float, float, float]) -> None:
    turn = nib.eulerangles.euler2mat(*angles)
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            affine[list(axes), range(3)] = signs
            affine[:3, :3] = turn @ affine[:3, :3] @ np.diag([0.5, 1, 4])
            assert orientation_of(affine) == "".join(nib.aff2axcodes(affine))
            np.testing.assert_allclose(spacing_of(affine), (0.5, 1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 0, np.nan), "NaN"),
        ((1, 3, np.inf), "infinite"),
        ((0, 0, 0.0), "singular"),
        ((3, 0, 1.0), "last row"),
        ((0, 0, 1e9), "absurd"),
        ((0, 1, 0.2), "sheared"),
    ],
    ids=str,
)
def test_useless_affines_are_refused_by_name(change: tuple[int, int, float], message: str) -> None:
    affine = np.eye(4)
    row, column, value = change
    affine[row, column] = value
    with pytest.raises(GeometryError, match=f"scan.nii: .*{message}"):
        check_affine(affine, "scan.nii")


def test_parallel_axes_are_singular() -> None:
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    with pytest.raises(GeometryError, match="singular"):
        check_affine(affine, "scan.nii", allow_shear=True)


def test_grids_are_the_same_within_a_twentieth_of_a_voxel() -> None:
    a, near, far = (volume((9, 9, 9), np.diag([1, 1, 3, 1.0])) for _ in range(3))
    near.affine[0, 3] = 0.04
    far.affine[0, 3] = 0.06
    assert same_grid(a, near)
    assert grid_difference(a, far) == "equal shape and spacing, but corners up to 0.06 mm apart"
    assert grid_difference(a, volume((9, 9, 8), a.affine)) == "shape (9, 9, 9) vs (9, 9, 8)"
    flipped = volume((9, 9, 9), np.diag([-1, 1, 3, 1.0]))
    assert grid_difference(a, flipped) == "orientation RAS vs LAS"
    with pytest.raises(
        GridMismatchError, match=r"case 'x': .*spacing \(1.0, 1.0, 3.0\) vs \(1.0, 1.0, 2.0\) mm.*resample_to"
    ):
        check_same_grid(a, volume((9, 9, 9), np.diag([1, 1, 2, 1.0])), whose="case 'x'")


def test_resampling_to_a_flipped_and_permuted_grid_is_exact() -> None:
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    source = volume((4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]), array)
    permuted = np.array([[0, 0, -1.0, 3.0], [2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    expected = array.transpose(1, 2, 0)[:, :, ::-1]
    for mode in ("nearest", "linear"):
        result = resample_to_grid(source, volume((5, 6, 4), permuted), mode)
        np.testing.assert_allclose(result.array, expected, atol=1e-5)
        np.testing.assert_array_equal(result.affine, permuted)
        assert result.header.shape == (5, 6, 4)


def test_nearest_keeps_labels_and_linear_fills_with_the_minimum() -> None:
    labels = np.full((4, 4, 4), 7, np.int16)
    wide = volume((10, 4, 4), np.eye(4))
    wide.affine[0, 3] = -3.0
    result = resample_to_grid(volume((4, 4, 4), np.eye(4), labels), wide, "nearest").array
    assert set(np.unique(result)) == {0, 7}
    np.testing.assert_array_equal(result[:, 0, 0], [0, 0, 0, 7, 7, 7, 7, 0, 0, 0])
    image = np.full((1, 4, 4, 4), -1000.0, np.float32)
    image[0, 2] = 50
    filled = resample_to_grid(volume((1, 4, 4, 4), np.eye(4), image), wide, "linear").array
    assert filled.shape == (1, 10, 4, 4)
    np.testing.assert_array_equal(filled[0, :, 1, 1], [-1000] * 5 + [50] + [-1000] * 4)
    with pytest.raises(ValueError, match="'cubic', expected"):
        resample_to_grid(wide, wide, "cubic")  # type: ignore[arg-type]


def test_real_image_in_two_formats_lies_on_one_grid(real_data: Path) -> None:
    from medseg.io.volume import read_image

    folder = real_data / "odd_geometry"
    t1 = read_image(folder / "oblique19_three_modalities" / "T1.nii.gz")
    t2 = read_image(folder / "oblique19_three_modalities" / "T2.nii.gz")
    assert same_grid(t1, t2)
