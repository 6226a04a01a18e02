"""NRRD, MetaImage and MGH: equal to ITK and nibabel in voxels and affine, and one sentence per defect."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.errors import DataError, GeometryError, MedsegError, UnreadableFileError
from medseg.io.header import Header
from medseg.io.volume import read_header, read_image, read_label, write_image, write_label

pytestmark = pytest.mark.requirement("R2")

DIRECTION = nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([1, -1, 1])
SPACING, ORIGIN = (0.7, 1.3, 2.9), (-11.5, 22.25, 3.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
EXPECTED = np.eye(4)
EXPECTED[:3, :3] = DIRECTION * SPACING
EXPECTED[:3, 3] = ORIGIN
EXPECTED = LPS @ EXPECTED


def example(dtype: str, shape: tuple[int, ...] = (7, 5, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, shape).astype(dtype)


def by_itk(path: Path, array: np.ndarray, *, compress: bool, vector: bool = False) -> None:
    """(X, Y, Z) or (C, X, Y, Z) written by ITK with an oblique, left-handed geometry."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=vector)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel())
    sitk.WriteImage(image, str(path), useCompression=compress)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_itk_s_files_are_read_exactly(tmp_path: Path, suffix: str, compress: bool, dtype: str) -> None:
    path = tmp_path / f"a{suffix}"
    by_itk(path, example(dtype), compress=compress)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array[0], example(dtype))
    np.testing.assert_allclose(volume.affine, EXPECTED, atol=1e-12)
    assert volume.header.dtype == np.dtype(dtype)
    if dtype not in ("f4", "f8"):
        np.testing.assert_array_equal(read_label(path).array, example(dtype))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_vectors_are_channels(tmp_path: Path, suffix: str) -> None:
    array = example("f4", (2, 7, 5, 3))
    by_itk(tmp_path / f"a{suffix}", array, compress=True, vector=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").array, array)
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}").affine, EXPECTED, atol=1e-12)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize("frames", [1, 3])
def test_mgh_equals_nibabel(tmp_path: Path, suffix: str, dtype: str, frames: int) -> None:
    array = example(dtype, (7, 5, 3) if frames == 1 else (7, 5, 3, frames))
    nib.save(nib.MGHImage(array, EXPECTED), tmp_path / f"a{suffix}")
    volume = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array, array[None] if frames == 1 else np.moveaxis(array, -1, 0))
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / f"a{suffix}").affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".mha"])
def test_files_written_by_us_are_read_by_itk_and_exact(tmp_path: Path, suffix: str) -> None:
    label = example("i2") * 3
    write_label(tmp_path / f"a{suffix}", label, like=Header.of_array(label.shape, EXPECTED))
    image = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, label)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN)
    np.testing.assert_allclose(image.GetDirection(), DIRECTION.ravel(), atol=1e-12)
    np.testing.assert_allclose(read_header(tmp_path / f"a{suffix}").affine, EXPECTED, rtol=1e-15, atol=1e-15)
    probabilities = np.random.default_rng(0).random((3, 7, 5, 3), dtype=np.float32)
    write_image(tmp_path / f"p{suffix}", probabilities, like=Header.of_array(label.shape, EXPECTED))
    np.testing.assert_array_equal(read_image(tmp_path / f"p{suffix}").array, probabilities)


def rewrite(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old.encode(), new.encode(), 1)


NRRD_DEFECTS = {
    "magic": (rewrite("NRRD000", "NRRX000"), UnreadableFileError, "is not an NRRD file"),
    "no sizes": (rewrite("sizes", "sises"), UnreadableFileError, "has no 'sizes'"),
    "sizes count": (
        rewrite("sizes: 7 5 3", "sizes: 7 5"),
        UnreadableFileError,
        "'sizes' is '7 5', expected 3 whole numbers",
    ),
    "zero axis": (rewrite("sizes: 7 5 3", "sizes: 7 0 3"), UnreadableFileError, "an axis without voxels"),
    "huge": (rewrite("sizes: 7 5 3", "sizes: 9999 9999 99"), UnreadableFileError, "more than the limit"),
    "larger": (rewrite("sizes: 7 5 3", "sizes: 7 5 4"), UnreadableFileError, "truncated|end before"),
    "smaller": (rewrite("sizes: 7 5 3", "sizes: 7 5 2"), UnreadableFileError, "more data follow"),
    "type": (rewrite("type: short", "type: block"), DataError, "'block' are not supported"),
    "encoding": (
        rewrite("encoding: gzip", "encoding: bzip2"),
        DataError,
        "'bzip2' is not supported, expected raw or gzip",
    ),
    "endian": (
        rewrite("endian: little", "endian: middle"),
        UnreadableFileError,
        "'middle', expected 'little' or 'big'",
    ),
    "space": (rewrite("left-posterior-superior", "cranial"), GeometryError, "the space 'cranial' is not supported"),
    "nan": (rewrite("space origin: (", "space origin: (nan,"), UnreadableFileError, "space origin"),
    "twice": (rewrite("endian: little", "endian: little\nendian: big"), UnreadableFileError, "gives 'endian' twice"),
    "line": (rewrite("endian: little", "endian little"), UnreadableFileError, "is not 'field: value'"),
}


@pytest.mark.parametrize("defect", NRRD_DEFECTS)
def test_nrrd_defects_are_named(tmp_path: Path, defect: str) -> None:
    change, error, message = NRRD_DEFECTS[defect]
    by_itk(tmp_path / "good.nrrd", example("i2"), compress=True)
    (tmp_path / "bad.nrrd").write_bytes(change((tmp_path / "good.nrrd").read_bytes()))
    with pytest.raises(error, match=message) as caught:
        read_image(tmp_path / "bad.nrrd")
    assert "bad.nrrd" in str(caught.value)


META_DEFECTS = {
    "no type": (rewrite("ElementType", "ElementTipe"), UnreadableFileError, "has no 'ElementType'"),
    "type": (rewrite("MET_SHORT", "MET_OTHER"), DataError, "'MET_OTHER' are not supported"),
    "axes": (rewrite("NDims = 3", "NDims = 4"), DataError, "has 4 axes"),
    "zero": (rewrite("DimSize = 7 5 3", "DimSize = 7 5 0"), UnreadableFileError, "an axis without voxels"),
    "larger": (rewrite("DimSize = 7 5 3", "DimSize = 7 5 4"), UnreadableFileError, "truncated"),
    "smaller": (rewrite("DimSize = 7 5 3", "DimSize = 7 5 2"), UnreadableFileError, "more data follow"),
    "singular": (
        rewrite("TransformMatrix = ", "TransformMatrix = 0 0 0 0 0 0 0 0 0\nX = "),
        GeometryError,
        "singular or absurd",
    ),
    "elsewhere": (rewrite("= LOCAL", "= ../secret.raw"), UnreadableFileError, "names a voxel file elsewhere"),
    "list": (rewrite("= LOCAL", "= LIST"), UnreadableFileError, "several files"),
    "text": (rewrite("BinaryData = True", "BinaryData = False"), DataError, "as text"),
    "flag": (rewrite("CompressedData = True", "CompressedData = Yes"), UnreadableFileError, "expected True or False"),
    "no end": (lambda content: content[:60], UnreadableFileError, "not a complete MetaImage header|is not 'Key"),
}


@pytest.mark.parametrize("defect", META_DEFECTS)
def test_metaimage_defects_are_named(tmp_path: Path, defect: str) -> None:
    change, error, message = META_DEFECTS[defect]
    by_itk(tmp_path / "good.mha", example("i2"), compress=True)
    (tmp_path / "bad.mha").write_bytes(change((tmp_path / "good.mha").read_bytes()))
    with pytest.raises(error, match=message) as caught:
        read_image(tmp_path / "bad.mha")
    assert "bad.mha" in str(caught.value)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mgz"])
def test_flipped_bytes_of_compressed_voxels_are_noticed_or_harmless(tmp_path: Path, suffix: str) -> None:
    array = example("i2", (9, 8, 7))
    if suffix == ".mgz":
        nib.save(nib.MGHImage(array, np.eye(4)), tmp_path / f"a{suffix}")
    else:
        by_itk(tmp_path / f"a{suffix}", array, compress=True)
    good = (tmp_path / f"a{suffix}").read_bytes()
    begin = 0 if suffix == ".mgz" else len(good) - 400
    noticed = 0
    for position in range(begin, len(good)):
        (tmp_path / f"b{suffix}").write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        try:
            np.testing.assert_array_equal(read_image(tmp_path / f"b{suffix}").array[0], array)
        except MedsegError:
            noticed += 1
    assert noticed > 0.9 * (len(good) - begin)


def test_mgh_defects_are_named(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(example("i2"), np.eye(4)), tmp_path / "a.mgh")
    good = (tmp_path / "a.mgh").read_bytes()
    for content, message in [
        (good[:100], "truncated inside its header"),
        (b"\0\0\0\2" + good[4:], "is not an MGH file"),
        (good[:20] + b"\0\0\0\2" + good[24:], "voxel type 2"),
        (good[:4] + b"\0\0\0\0" + good[8:], "an axis without voxels"),
        (good[:400], "the header declares 210 bytes of voxels, the file holds 116"),
        (gzip.compress(good)[:-9], "end mark|damaged"),
    ]:
        (tmp_path / "b.mgh").write_bytes(content)
        with pytest.raises(UnreadableFileError, match=message):
            read_image(tmp_path / "b.mgh")


@pytest.mark.data
def test_real_files_equal_itk_and_nibabel(real_data: Path) -> None:
    odd = real_data / "odd_geometry"
    nifti = read_image(odd / "oblique19_same_image_two_formats" / "FLAIR.nii.gz")
    nrrd = read_image(odd / "oblique19_same_image_two_formats" / "FLAIR.nrrd")
    np.testing.assert_array_equal(nifti.array, nrrd.array)
    np.testing.assert_allclose(nifti.affine, nrrd.affine, atol=1e-5)
    flipped = read_image(odd / "mha_flipped_direction" / "mha.mha")
    twin = sitk.ReadImage(str(odd / "mha_flipped_direction" / "mha.mha"))
    np.testing.assert_array_equal(flipped.array[0], sitk.GetArrayFromImage(twin).T)
    assert flipped.header.orientation == "LAS"
