"""What `medseg predict` refuses, MONAI's LoadImage with our reader refuses; and what both read is the same."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage

from medseg.errors import GeometryError, GridMismatchError, UnreadableFileError
from medseg.io.monai_reader import VolumeReader
from medseg.io.volume import read_image

AFFINE = np.diag([-1.5, 2.0, 3.0, 1.0])


def saved(path: Path, affine: np.ndarray = AFFINE, seed: int = 0) -> Path:
    array = np.random.default_rng(seed).normal(size=(5, 6, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def load(*files: Path):
    return LoadImage(reader=VolumeReader(), image_only=True)([str(file) for file in files])


def test_voxels_affine_and_channels_are_those_of_read_image(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{n}.nii.gz", seed=n) for n in (1, 2)]
    found, expected = load(*files), read_image(files)
    np.testing.assert_array_equal(found.numpy(), expected.array)
    np.testing.assert_array_equal(found.affine.numpy(), AFFINE)
    assert found.meta["original_channel_dim"] == 0
    assert found.meta["filename_or_obj"] == str(files[0])


def test_a_broken_checksum_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.nii.gz")
    data = bytearray(file.read_bytes())
    data[-6] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UnreadableFileError, match=r"a\.nii\.gz"):
        load(file)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.nii")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UnreadableFileError, match=r"a\.nii"):
        load(file)


def test_a_sheared_affine_is_refused_unless_allowed(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.7
    image = nibabel.Nifti1Image(np.ones((5, 6, 7), dtype=np.float32), affine)
    image.set_sform(affine, 1)
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(image.to_bytes()))
    with pytest.raises(GeometryError, match=r"a\.nii\.gz"):
        load(file)
    found = LoadImage(reader=VolumeReader(allow_shear=True), image_only=True)(str(file))
    np.testing.assert_allclose(found.affine.numpy(), affine, atol=1e-6)


def test_channels_on_two_grids_are_refused(tmp_path: Path) -> None:
    other = saved(tmp_path / "b.nii.gz", np.diag([1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(GridMismatchError):
        load(saved(tmp_path / "a.nii.gz"), other)
