"""What is stored for a case: image and label on one grid, whatever the label's own header says within rounding."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.datasets import check_headers
from medseg.io.datalist import Case
from medseg.io.store import StoredArrays
from medseg.training.prepare import preprocess_case
from medseg.transforms.preprocessing import Preprocessing
from tests.volumes import ball

PLAIN = [{"kind": "none"}]


def stored(
    folder: Path, affines: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...], recipe: Preprocessing
) -> StoredArrays:
    """A ball of intensity 2 off the centre, its label map under another affine, as training stores the two."""
    inside = ball(shape, 3.0, [n * share for n, share in zip(shape, (0.25, 0.5, 0.7), strict=True)])
    image, label = folder / "image.nii", folder / "label.nii"
    nibabel.save(nibabel.Nifti1Image(inside.astype(np.float32) * 2, affines[0]), image)
    nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), affines[1]), label)
    case = Case("ball", (image,), label)
    check_headers(case)  # the two count as one grid
    return preprocess_case(recipe, {0: "background", 1: "ball"})(case)


def turned(radians: float, plane: tuple[int, int]) -> np.ndarray:
    affine = np.eye(4)
    c, s = np.cos(radians), np.sin(radians)
    affine[np.ix_(plane, plane)] = [[c, -s], [s, c]]
    return affine


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("quarter", [1, 3, 5])
def test_half_way_between_two_axes_the_label_turns_with_its_image(
    tmp_path: Path, plane: tuple[int, int], quarter: int
) -> None:
    middle = quarter * np.pi / 4
    for difference in (-1e-4, -1e-6, 1e-6, 1e-4):
        affines = turned(middle, plane), turned(middle + difference, plane)
        arrays = stored(tmp_path, affines, (16, 15, 14), Preprocessing([1, 1, 1], PLAIN))
        assert arrays.label is not None
        assert arrays.image[0][arrays.label > 0].min() > 1.5
        assert arrays.image[0][arrays.label == 0].max() < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_within_rounding_gives_no_other_shape(tmp_path: Path, axis: int) -> None:
    wanted = [2.0 if a == axis else 1.0 for a in range(3)]
    for odd in (11, 13, 15):
        shape = tuple(odd if a == axis else 12 for a in range(3))
        other = np.diag([1.0000002 if a == axis else 1.0 for a in range(3)] + [1.0])
        arrays = stored(tmp_path, (np.eye(4), other), shape, Preprocessing(wanted, PLAIN))
        assert arrays.label is not None
        assert arrays.image.shape[1:] == arrays.label.shape


def test_a_case_cut_to_its_nonzero_voxels_is_cut_in_image_and_label(tmp_path: Path) -> None:
    recipe = Preprocessing([1, 1, 2], PLAIN, crop_to_nonzero=True)
    arrays = stored(tmp_path, (np.diag([-1.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1])), (16, 15, 14), recipe)
    assert arrays.label is not None
    assert arrays.image.shape[1:] == arrays.label.shape == (5, 6, 3)  # as the ball is; 6 slices of 1 mm
    assert arrays.image[0][arrays.label > 0].min() > 0
