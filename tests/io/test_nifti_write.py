"""NIfTI out: the geometry of the input bit for bit, nothing else of it, whole or not at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import DataError, GridMismatchError, LabelError
from medseg.io.formats import nifti_write
from medseg.io.header import Header
from medseg.io.volume import read_header, read_image, read_label, write_image, write_label

pytestmark = pytest.mark.requirement("R11")

SHAPE = (4, 5, 6)
GEOMETRY = ["qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
GEOMETRY += ["srow_x", "srow_y", "srow_z", "xyzt_units"]
ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
SHEAR = np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])
OBLIQUE = nib.eulerangles.euler2mat(0.31, -0.22, 0.17)


def affine_of(axes: tuple[int, ...], signs: tuple[int, ...], turn: np.ndarray) -> np.ndarray:
    directions = np.zeros((3, 3))
    directions[list(axes), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions @ np.diag([0.7, 1.1, 3.3])
    affine[:3, 3] = [-31.3, 17.9, 101.1]
    return affine


@pytest.mark.parametrize("turn", ["axial", "oblique", "sheared"])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS, ids=str)
def test_stored_geometry_is_equal_bit_for_bit(tmp_path: Path, axes: tuple, signs: tuple, turn: str) -> None:
    matrix = {"axial": np.eye(3), "oblique": OBLIQUE, "sheared": OBLIQUE @ SHEAR}[turn]
    affine = affine_of(axes, signs, matrix)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=2)
    nib.save(image, tmp_path / "in.nii.gz")
    header = read_header(tmp_path / "in.nii.gz", allow_shear=True)
    label = np.zeros(SHAPE, np.uint8)
    label[1, 3, 2] = 1
    write_label(tmp_path / "out.nii.gz", label, like=header)
    source, result = nib.load(tmp_path / "in.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    for name in GEOMETRY:
        assert source.header[name].tobytes() == result.header[name].tobytes(), name
    assert source.header["pixdim"][:4].tobytes() == result.header["pixdim"][:4].tobytes()
    landmark = np.argwhere(np.asarray(result.dataobj))[0]
    assert landmark.tolist() == [1, 3, 2]
    np.testing.assert_array_equal(nib.affines.apply_affine(result.affine, landmark), header.affine[:3] @ [1, 3, 2, 1])


def test_nifti_2_geometry_survives_in_doubles(tmp_path: Path) -> None:
    affine = affine_of((1, 0, 2), (1, -1, 1), OBLIQUE)
    nib.save(nib.Nifti2Image(np.zeros(SHAPE, np.int16), affine), tmp_path / "in.nii")
    write_label(tmp_path / "out.nii", np.zeros(SHAPE, np.uint8), like=read_header(tmp_path / "in.nii"))
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, affine)


def test_affine_of_an_array_gives_equal_qform_and_sform(tmp_path: Path) -> None:
    for number, (axes, signs) in enumerate(ORIENTATIONS):
        affine = affine_of(axes, signs, OBLIQUE)
        write_image(tmp_path / f"{number}.nii", np.zeros(SHAPE, np.float32), like=Header.of_array(SHAPE, affine))
        twin = nib.load(tmp_path / f"{number}.nii")
        np.testing.assert_allclose(twin.get_sform(), affine, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(twin.get_qform(), affine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 7, 2), (3, 4, 5, 6)], ids=str)
def test_voxels_come_back(tmp_path: Path, order: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=shape), dtype=np.float32, order=order)
    write_image(tmp_path / "a.nii.gz", array, like=Header.of_array(shape, np.eye(4)))
    expected = array if array.ndim == 4 else array[None]
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").array, expected)
    twin = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(np.moveaxis(twin, -1, 0) if twin.ndim == 4 else twin[None], expected)


@pytest.mark.parametrize(("highest", "dtype"), [(1, "u1"), (255, "u1"), (256, "i2"), (40000, "u2"), (70000, "i4")])
def test_labels_get_the_smallest_type_that_holds_them(tmp_path: Path, highest: int, dtype: str) -> None:
    label = np.zeros(SHAPE, np.int64)
    label[1, 2, 3] = highest
    write_label(tmp_path / "a.nii.gz", label, like=Header.of_array(SHAPE, np.eye(4)))
    volume = read_label(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.array, label)


def test_equal_voxels_give_equal_files(tmp_path: Path) -> None:
    label = (np.random.default_rng(0).random(SHAPE) > 0.5).astype(np.uint8)
    like = Header.of_array(SHAPE, np.eye(4))
    write_label(tmp_path / "first.nii.gz", label, like=like)
    write_label(tmp_path / "second.nii.gz", label, like=like)
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()


def test_nothing_but_geometry_is_copied_from_the_source(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"CANARY-NAME"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY-COMMENT"))
    nib.save(image, tmp_path / "in.nii")
    write_label(tmp_path / "canary.nii.gz", np.zeros(SHAPE, np.uint8), like=read_header(tmp_path / "in.nii"))
    write_label(tmp_path / "out.nii", np.zeros(SHAPE, np.uint8), like=read_header(tmp_path / "in.nii"))
    assert b"CANARY" not in (tmp_path / "out.nii").read_bytes()
    assert b"canary" not in (tmp_path / "canary.nii.gz").read_bytes(), "gzip keeps file names unless told otherwise"


def test_wrong_shape_type_and_suffix_are_refused(tmp_path: Path) -> None:
    like = Header.of_array(SHAPE, np.eye(4))
    with pytest.raises(GridMismatchError, match=r"\(4, 5, 5\) for an image of shape \(4, 5, 6\)"):
        write_label(tmp_path / "a.nii.gz", np.zeros((4, 5, 5), np.uint8), like=like)
    with pytest.raises(LabelError, match="float32, expected integers"):
        write_label(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.float32), like=like)
    with pytest.raises(LabelError, match="300 do not fit into uint8"):
        write_label(tmp_path / "a.nii.gz", np.full(SHAPE, 300), like=like, dtype=np.uint8)
    with pytest.raises(DataError, match="unknown format to write"):
        write_label(tmp_path / "a.xyz", np.zeros(SHAPE, np.uint8), like=like)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_threads_write_the_same_bytes_each_time(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, two threads: whole, checked by its own checksum, and equal from run to run."""
    monkeypatch.setattr(nifti_write, "GZIP_THREADED_FROM", 0)
    array = np.random.default_rng(0).integers(-50, 50, (120, 110, 90)).astype(np.int16)
    content = []
    for _ in range(3):
        write_image(tmp_path / name, array, Header.of_array(array.shape, np.eye(4)))
        content.append((tmp_path / name).read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path / name).array[0], array)
    assert content[0] == content[1] == content[2]
