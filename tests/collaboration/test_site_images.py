"""A site's images on another site's grid: by world position, and refused where they lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.collaboration.site_images import Place, SiteImages, reference_of
from medseg.errors import DataError
from medseg.io.datalist import Case
from medseg.transforms.preprocessing import Preprocessing

RAW = Preprocessing(None, [{"kind": "none"}])
PLACE = Place(0, 1, 1, RAW, (8, 8, 8), {}, 0)


def ramp(path: Path, size: int, spacing: float, origin: float = 0.0) -> Path:
    """A volume whose value is its world position x + 2 y + 3 z in mm."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    x, y, z = (origin + spacing * axis for axis in np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    nibabel.save(nibabel.Nifti1Image((x + 2 * y + 3 * z).astype(np.float32), affine), path)
    return path


def test_an_image_on_another_grid_is_read_at_the_world_position_of_each_shared_voxel(tmp_path: Path) -> None:
    own = ramp(tmp_path / "own.nii.gz", 40, 1.0, origin=-5.0)
    reference = ramp(tmp_path / "reference.nii.gz", 8, 1.3)
    images = SiteImages({"p": Case("p", (own,))}, PLACE)
    told = reference_of(Case("p", (reference,)))
    images.bring("p", told["shape"], np.array(told["affine"]))
    wanted = np.asarray(nibabel.load(reference).dataobj)
    assert images.arrays["p"].shape == (1, 8, 8, 8)
    assert float(np.abs(images.arrays["p"][0] - wanted).max()) < 1e-3


def test_a_finer_image_is_smoothed_before_it_is_read_coarsely(tmp_path: Path) -> None:
    path = tmp_path / "noise.nii.gz"
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    images = SiteImages({"p": Case("p", (path,))}, PLACE)
    images.bring("p", (10, 10, 10), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert float(images.arrays["p"].std()) < 0.3  # a picked voxel would keep 1


def test_an_image_that_lies_elsewhere_is_refused_and_the_patient_named(tmp_path: Path) -> None:
    images = SiteImages({"p": Case("p", (ramp(tmp_path / "far.nii.gz", 8, 1.0, origin=500.0),))}, PLACE)
    with pytest.raises(DataError, match=r"patient 'p': far.nii.gz has no voxel in the label site's image"):
        images.bring("p", (8, 8, 8), np.eye(4))


def test_a_geometry_that_is_told_anew_replaces_the_old_one(tmp_path: Path) -> None:
    images = SiteImages({"p": Case("p", (ramp(tmp_path / "own.nii.gz", 20, 1.0),))}, PLACE)
    affine: NDArray[np.float64] = np.eye(4)
    assert not images.lies_on("p", (8, 8, 8), affine)
    images.bring("p", (8, 8, 8), affine)
    assert images.lies_on("p", (8, 8, 8), affine)
    assert not images.lies_on("p", (8, 8, 8), 2 * affine)
