"""`medseg.load`: what comes in goes out as the same kind, with the labels that `medseg predict` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor

import medseg
from medseg.errors import DataError
from tests.bundle.samples import AFFINE, make_bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    make_bundle(folder / "net", folder / "data", roi_size=[32, 16, 16])
    return folder


@pytest.fixture(scope="module")
def segment(place: Path) -> Any:
    return medseg.load(place / "net", medseg.PredictOptions(device="cpu", engine="eager"))


@pytest.fixture(scope="module")
def file(place: Path) -> Path:
    return place / "data" / "images" / "case0.nii.gz"


@pytest.fixture(scope="module")
def expected(place: Path, file: Path) -> np.ndarray:
    options = medseg.PredictOptions(device="cpu", engine="eager")
    medseg.predict(place / "net", file, place / "out", options=options, preview=False)
    return np.asarray(nibabel.load(place / "out" / "case0.nii.gz").dataobj)


def test_a_file_gives_an_array_or_a_file(segment: Any, file: Path, expected: np.ndarray, tmp_path: Path) -> None:
    np.testing.assert_array_equal(segment(file), expected)
    made = segment(str(file), tmp_path / "label.nii.gz")
    assert made == tmp_path / "label.nii.gz"
    found = nibabel.load(made)
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_array_equal(found.affine, nibabel.load(file).affine)
    np.testing.assert_array_equal(segment([file]), expected)


def test_arrays_and_tensors_come_back_as_they_came(segment: Any, file: Path, expected: np.ndarray) -> None:
    array = nibabel.load(file).get_fdata(dtype=np.float32)
    found = segment(array, affine=nibabel.load(file).affine)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)
    tensor = segment(torch.from_numpy(array)[None], affine=nibabel.load(file).affine)
    assert torch.equal(tensor, torch.from_numpy(expected.astype(np.int32)))
    meta = segment(MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(nibabel.load(file).affine)))
    assert torch.equal(torch.as_tensor(meta), tensor)


def test_spacing_stands_for_an_upright_affine(segment: Any) -> None:
    array = np.random.default_rng(0).normal(size=(20, 18, 12))
    found = segment(array, spacing=(1.0, 1.0, 1.5))
    np.testing.assert_array_equal(found, segment(array, affine=np.diag([1.0, 1.0, 1.5, 1.0])))


def test_images_of_nibabel_and_simpleitk_keep_their_grid(segment: Any, file: Path, expected: np.ndarray) -> None:
    by_nibabel = segment(nibabel.load(file))
    np.testing.assert_array_equal(np.asarray(by_nibabel.dataobj), expected)
    np.testing.assert_allclose(by_nibabel.affine, AFFINE, atol=1e-6)
    image = SimpleITK.ReadImage(str(file))
    by_itk = segment(image)
    assert by_itk.GetDirection() == image.GetDirection()
    assert by_itk.GetOrigin() == image.GetOrigin()
    # ITK keeps the direction as a unit matrix: rounding moves a few voxels over a boundary
    assert (expected == SimpleITK.GetArrayFromImage(by_itk).T).mean() > 0.999


@pytest.mark.parametrize(
    ("image", "words", "message"),
    [
        (np.zeros((8, 8, 8)), {}, "give spacing="),
        (np.zeros((2, 8, 8, 8)), {"spacing": (1, 1, 1)}, "has 2 channels"),
        (np.zeros((8, 8)), {"spacing": (1, 1, 1)}, "expected real numbers"),
        (np.full((8, 8, 8), np.nan), {"spacing": (1, 1, 1)}, "512 NaN"),
        (np.zeros((8, 8, 8)), {"spacing": (1, 0, 1)}, "three positive numbers"),
        (np.zeros((8, 8, 8)), {"spacing": (1, 1, 1), "affine": np.eye(4)}, "expected one of them"),
        (np.zeros((8, 8, 8), dtype=complex), {"spacing": (1, 1, 1)}, "complex128"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_cannot_be_segmented_is_named(segment: Any, image: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        segment(image, **words)


def test_the_module_shows_its_doors_only(segment: Any) -> None:
    assert dir(medseg) == sorted(medseg.__all__)
    assert repr(segment) == "<medseg bundle tiny_mr_unet 0.1.0: MRI -> anterior, posterior>"


def test_files_of_several_channels_are_put_in_order_by_their_names(tmp_path: Path, file: Path) -> None:
    changes = {"channels": {0: "PET", 1: "CT"}, "normalization": [{"kind": "zscore"}] * 2, "roi_size": [32, 16, 16]}
    network = {
        "preset": "mednext",
        "size": "nano",
        "spatial_dims": 3,
        "in_channels": 2,
        "out_channels": 3,
        "mixer": None,
    }
    make_bundle(tmp_path / "net", tmp_path / "data", **changes, network=network | {"deep_supervision": True})
    two = medseg.load(tmp_path / "net", medseg.PredictOptions(device="cpu", engine="eager"))
    image = nibabel.load(file)
    array = image.get_fdata(dtype=np.float32)
    (tmp_path / "p").mkdir()
    for name, values in (("pet", array), ("ct", array[::-1].copy()), ("other", array)):
        nibabel.save(nibabel.Nifti1Image(values, image.affine), tmp_path / "p" / f"p_{name}.nii.gz")
    expected = two(np.stack([array, array[::-1]]), affine=image.affine)
    for given in (["pet", "ct"], ["ct", "pet"]):
        np.testing.assert_array_equal(two([tmp_path / "p" / f"p_{name}.nii.gz" for name in given]), expected)
    with pytest.raises(DataError, match="named like channel 1"):
        two([tmp_path / "p" / "p_ct.nii.gz", tmp_path / "p" / "p_other.nii.gz"])
