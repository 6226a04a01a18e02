"""NIfTI in: equal to nibabel voxel by voxel, and one sentence for each defect."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import DataError, GeometryError, LabelError, MedsegError, UnreadableFileError
from medseg.io.volume import read_header, read_image, read_label

pytestmark = pytest.mark.requirement("R2")

AFFINE = np.array([[-1.5, 0.1, 0.0, 10.0], [0.1, 1.5, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1]])
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def example(shape: tuple[int, ...] = (7, 5, 3), dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_and_affine_equal_nibabel(tmp_path: Path, order: str, dtype: str, kind: type, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    array = example(dtype=dtype)
    header_class = nib.Nifti1Header if kind is nib.Nifti1Image else nib.Nifti2Header
    header = header_class(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    nib.save(kind(array, AFFINE, header), path)
    volume = read_image(path)
    twin = nib.load(path)
    np.testing.assert_array_equal(volume.array[0], twin.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, twin.affine)
    assert volume.header.dtype == np.dtype(dtype)
    assert volume.header.shape == (7, 5, 3)


@pytest.mark.parametrize(
    "shape", [(6,), (6, 5), (6, 5, 1), (6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3), (6, 5, 4, 1, 3)], ids=str
)
def test_axes_beyond_three_are_channels_and_missing_ones_are_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = example(shape)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    spatial = (*shape, 1, 1)[:3]
    assert volume.array.shape == (int(np.prod(shape[3:])), *spatial)
    expected = array.reshape(*spatial, -1)
    np.testing.assert_array_equal(volume.array, np.moveaxis(expected, -1, 0))


def test_scaled_integers_equal_nibabel(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), AFFINE)
    image.header.set_slope_inter(0.37, -12.5)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(
        read_image(tmp_path / "a.nii.gz").array[0], nib.load(tmp_path / "a.nii.gz").get_fdata(), rtol=1e-6
    )


def test_pair_of_header_and_voxels_is_read_by_either_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(example(), AFFINE), tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array[0], example())
    (tmp_path / "a.img").unlink()
    with pytest.raises(UnreadableFileError, match=r"a\.img is not beside it"):
        read_image(tmp_path / "a.hdr")


def test_content_decides_about_gzip_not_the_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(example(), AFFINE), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(content)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array[0], example())


def test_concatenated_gzip_members_are_one_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(example(), AFFINE), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").array[0], example())


def test_qform_is_used_when_there_is_no_sform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), None)
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.3, 0.4) @ np.diag([-1, 2, 3]), [4, 5, 6])
    image.set_qform(turned, code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").affine, turned, atol=1e-5)


def test_disagreement_of_qform_and_sform_is_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), None)
    image.set_qform(np.eye(4), code=1)
    image.set_sform(np.diag([1, 1, 2, 1]), code=2)
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    np.testing.assert_array_equal(header.affine, np.diag([1, 1, 2, 1]))
    assert any("qform and sform disagree" in sentence for sentence in header.warnings)


def test_no_transform_is_read_as_nibabel_does_and_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    np.testing.assert_allclose(header.affine, nib.load(tmp_path / "a.nii").affine)
    assert any("left and right are a guess" in sentence for sentence in header.warnings)


def test_every_flipped_byte_of_a_gzip_file_is_noticed_or_harmless(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(example(), AFFINE), tmp_path / "a.nii.gz")
    good = (tmp_path / "a.nii.gz").read_bytes()
    noticed = 0
    for position in range(len(good)):
        (tmp_path / "b.nii.gz").write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            volume = read_image(tmp_path / "b.nii.gz")
        except MedsegError as error:
            noticed += str(error).startswith(str(tmp_path / "b.nii.gz")) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(volume.array[0], example())
            np.testing.assert_array_equal(volume.affine, read_image(tmp_path / "a.nii.gz").affine)
    assert noticed > 0.9 * len(good)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_truncation_is_noticed(tmp_path: Path, suffix: str) -> None:
    nib.save(nib.Nifti1Image(example(), AFFINE), tmp_path / f"a{suffix}")
    good = (tmp_path / f"a{suffix}").read_bytes()
    for length in range(len(good)):
        (tmp_path / f"b{suffix}").write_bytes(good[:length])
        with pytest.raises(UnreadableFileError, match=r"b\.nii"):
            read_image(tmp_path / f"b{suffix}")


def test_nan_voxels_are_refused(tmp_path: Path) -> None:
    array = example(dtype="f4")
    array[3, 2, 1] = np.nan
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "a.nii")
    with pytest.raises(DataError, match="holds nan at voxel number 52"):
        read_image(tmp_path / "a.nii")


def test_missing_file_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_image(tmp_path / "no.nii.gz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UnreadableFileError, match="unknown volume format"):
        read_image(tmp_path / "a.txt")


def test_sheared_affine_needs_permission(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.3
    nib.save(nib.Nifti1Image(example(), affine), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"sheared: voxel axes are 16\.70 degrees"):
        read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii", allow_shear=True).affine, affine, atol=1e-6)


def test_labels_stored_as_floats_are_rounded_when_whole(tmp_path: Path) -> None:
    labels = example().clip(0, 3).astype("f4")
    nib.save(nib.Nifti1Image(labels * np.float32(0.99999997), np.eye(4)), tmp_path / "a.nii.gz")
    volume = read_label(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, labels)
    nib.save(nib.Nifti1Image(labels * 0.5, np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(LabelError, match=r"b\.nii\.gz: holds the value 1\.5"):
        read_label(tmp_path / "b.nii.gz")


def test_stored_integers_come_back_as_they_are(tmp_path: Path) -> None:
    labels = example(dtype="i8") * 2**40
    nib.save(nib.Nifti1Image(labels, np.eye(4), dtype=labels.dtype), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii").array, labels)


def test_limit_on_voxels_holds_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(example(), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(UnreadableFileError, match="declares 105 voxels, more than the limit of 100"):
        read_image(tmp_path / "a.nii.gz", max_voxels=100)
    monkeypatch.setenv("MEDSEG_MAX_VOXELS", "104")
    with pytest.raises(UnreadableFileError, match="MEDSEG_MAX_VOXELS"):
        read_header(tmp_path / "a.nii.gz")
