"""DICOM series: the same voxels and affine as ITK, and a sentence for every series with a hole."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medseg.errors import DataError, GeometryError, MedsegError, UnreadableFileError
from medseg.io.volume import read_header, read_image
from tests.io.dicom_maker import change, make_multiframe, make_series, voxels


def itk_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) voxels and the RAS affine by ITK."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ lps


@pytest.mark.parametrize("angle", [0.0, 0.35])
def test_series_equals_itk_also_oblique(tmp_path: Path, angle: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    make_series(tmp_path, directions=(turn[:, 0], turn[:, 1]))
    volume = read_image(tmp_path)
    array, affine = itk_series(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_array_equal(volume.array[0], voxels() * 2.0 - 1000)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.header.modality == "CT"
    assert volume.header.spacing == pytest.approx((0.7, 0.8, 2.5))
    assert len(volume.header.series) == 5


def test_slices_are_sorted_by_position_not_by_name_or_number(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    for index, path in enumerate(files):
        change(path, InstanceNumber=99 - index)
    np.testing.assert_array_equal(read_image(tmp_path).array[0], voxels() * 2.0 - 1000)
    assert list(read_header(tmp_path).series) == files


def test_multi_frame_file_is_one_volume(tmp_path: Path) -> None:
    path = make_multiframe(tmp_path / "one.dcm")
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    np.testing.assert_allclose(
        volume.affine, [[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]], atol=1e-9
    )
    assert volume.header.modality == "MR"


def test_one_slice_has_its_thickness(tmp_path: Path) -> None:
    (path,) = make_series(tmp_path, voxels((4, 3, 1)))
    assert read_image(path).array.shape == (1, 4, 3, 1)
    assert read_header(path).spacing == pytest.approx((0.7, 0.8, 2.5))


def test_missing_slice_is_named(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    files[2].unlink()
    with pytest.raises(
        GeometryError, match=rf"1 slice is missing between {files[1].name} and {files[3].name} \(5 mm apart"
    ):
        read_header(tmp_path)


def test_uneven_distances_are_named(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    change(files[4], ImagePositionPatient=[-10.0, 20.0, 30.0 + 4 * 2.5 + 0.8])
    with pytest.raises(
        GeometryError, match=r"slices are 2.5 to 3.3 mm apart \(3.3 mm between slice_24.dcm and slice_31.dcm\)"
    ):
        read_header(tmp_path)


def test_rounding_of_positions_is_no_gap(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    change(files[2], ImagePositionPatient=[-10.001, 20.0, 35.01])
    assert read_header(tmp_path).spacing[2] == pytest.approx(2.5)


def test_mixed_series_are_refused(tmp_path: Path) -> None:
    make_series(tmp_path)
    make_series(tmp_path, prefix="other")
    with pytest.raises(
        DataError, match=r"holds 2 series \(5 slices such as other_03.dcm, 5 slices such as slice_03.dcm\)"
    ):
        read_image(tmp_path)


def test_doubled_position_is_refused(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    shutil.copy(files[1], tmp_path / "copy.dcm")
    with pytest.raises(DataError, match="lie at the same position"):
        read_image(tmp_path)


def test_tilted_gantry_is_refused_unless_allowed(tmp_path: Path) -> None:
    make_series(tmp_path, step=np.array([0.0, 2.5 * np.tan(np.radians(12)), 2.5]))
    with pytest.raises(GeometryError, match=r"gantry was tilted by 12.0 degrees"):
        read_image(tmp_path)
    volume = read_image(tmp_path, allow_shear=True)
    np.testing.assert_allclose(volume.affine[:3, 2], [0, -2.5 * np.tan(np.radians(12)), 2.5], atol=1e-6)


def test_the_way_out_of_a_tilted_gantry_works_as_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, step = tmp_path / "tilted head", np.array([0.0, 0.6, 2.5])
    x, y, z = np.meshgrid(np.arange(8), np.arange(24), np.arange(9), indexing="ij")
    ramp = (100 + 10 * x + 20 * (0.8 * y + 0.6 * z)).round().astype(np.int16)  # its value tells the place
    make_series(folder, ramp, step=step)
    with pytest.raises(GeometryError, match=r"gantry was tilted by 13.5 degrees") as caught:
        read_image(folder)
    words = shlex.split(str(caught.value).partition("first: ")[2])
    assert words[:3] == ["python", "-m", "medseg.io.straighten"]
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    straight = read_image(tmp_path / words[-1])
    axes = straight.affine[:3, :3] / np.linalg.norm(straight.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    sheared = read_image(folder, allow_shear=True)
    inside = np.argwhere(straight.array[0] > -700)
    world = inside @ straight.affine[:3, :3].T + straight.affine[:3, 3]
    place = (world - sheared.affine[:3, 3]) @ np.linalg.inv(sheared.affine[:3, :3]).T
    whole = np.all((place >= 0) & (place <= np.array(sheared.grid) - 1), axis=1)
    assert whole.sum() > 1000
    right = 2 * (100 + 10 * place[:, 0] + 20 * (0.8 * place[:, 1] + 0.6 * place[:, 2])) - 1000
    np.testing.assert_allclose(straight.array[0][tuple(inside[whole].T)], right[whole], atol=1.1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"Rows": 5, "PixelData": bytes(5 * 8 * 2)}, GeometryError, "8x5 voxels, .* has 8x6"),
        ({"PixelSpacing": [0.8, 0.9]}, GeometryError, r"pixel spacing \(0.8, 0.9\) mm"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, GeometryError, "another orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, GeometryError, "is no pair of directions"),
        ({"ImagePositionPatient": None}, GeometryError, "has no usable ImagePositionPatient"),
        ({"PixelSpacing": [0, 0.7]}, GeometryError, "PixelSpacing is"),
        ({"SamplesPerPixel": 3}, DataError, "holds colours"),
        ({"BitsAllocated": 12}, DataError, "12 bits per voxel"),
        ({"NumberOfFrames": 4, "PixelData": bytes(4 * 96)}, GeometryError, "4 frames but does not say where"),
        ({"PixelData": bytes(10)}, UnreadableFileError, "voxels are damaged or truncated"),
        ({"PixelData": None}, UnreadableFileError, "has no voxels"),
        ({"Rows": 60000, "Columns": 60000}, UnreadableFileError, "the header declares 7200000000 bytes of voxels"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_slice_names_its_file(tmp_path: Path, changes: dict, error: type[MedsegError], message: str) -> None:
    files = make_series(tmp_path)
    change(files[2], **changes)
    with pytest.raises(error, match=message) as caught:
        read_image(tmp_path)
    assert files[2].name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_slice_is_noticed(tmp_path: Path) -> None:
    files = make_series(tmp_path)
    good = files[2].read_bytes()
    for length in [*range(0, len(good), 37), len(good) - 1]:
        files[2].write_bytes(good[:length])
        with pytest.raises(MedsegError):
            read_image(tmp_path)


def test_folder_without_dicom_and_reports_only(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="holds no DICOM file"):
        read_image(tmp_path)
    (path,) = make_series(tmp_path, voxels((4, 3, 1)), Modality="SR")
    with pytest.raises(UnreadableFileError, match="hold no image"):
        read_image(tmp_path)
    path.write_bytes(b"no DICOM at all")
    with pytest.raises(UnreadableFileError, match=r"slice_03.dcm: is not a"):
        read_image(tmp_path)


def test_limit_on_voxels_holds_for_series(tmp_path: Path) -> None:
    make_series(tmp_path)
    with pytest.raises(UnreadableFileError, match="declares 240 voxels, more than the limit of 239"):
        read_image(tmp_path, max_voxels=239)


def test_deflated_files_are_refused(tmp_path: Path) -> None:
    (path,) = make_series(tmp_path, voxels((4, 3, 1)))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match="deflated"):
        read_image(path)


@pytest.mark.data
@pytest.mark.parametrize(
    "folder",
    ["odd_geometry/dicom_series_small", "ct_totalseg/dicom_20slices/series", "odd_geometry/dicom_seg_ct3slices/image"],
)
def test_real_series_equal_itk(real_data: Path, folder: str) -> None:
    volume = read_image(real_data / folder)
    array, affine = itk_series(real_data / folder)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def _table(dataset: pydicom.Dataset) -> None:
    item = pydicom.Dataset()
    item.add_new(0x00283002, "US", [240, 0, 16])
    item.ModalityLUTType = "HU"
    item.add_new(0x00283006, "OW", (np.arange(240) // 2 + 7).astype("<u2").tobytes())
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.ModalityLUTSequence = [item]
    dataset.PixelRepresentation = 0


def _edited(folder: Path, edit: Callable[[pydicom.Dataset], None], *, only: int | None = None) -> Path:
    for number, path in enumerate(make_series(folder)):
        if only is None or number == only:
            dataset = pydicom.dcmread(path)
            edit(dataset)
            dataset.save_as(path, enforce_file_format=True)
    return folder


def _without_rescale(dataset: pydicom.Dataset) -> None:
    del dataset.RescaleSlope, dataset.RescaleIntercept


def test_a_modality_table_gives_the_values(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(_edited(tmp_path / "s", _table)).array[0], voxels() // 2 + 7)


def test_no_rescale_at_all_keeps_the_stored_numbers(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(_edited(tmp_path / "s", _without_rescale)).array[0], voxels())


@pytest.mark.parametrize(
    ("edit", "only", "message"),
    [
        (_without_rescale, 2, "values without a rescale"),
        (_table, 2, "with a table"),
        (lambda one: setattr(one, "RescaleSlope", 0), None, "RescaleSlope of 0"),
        (lambda one: setattr(one, "RescaleSlope", 0), 3, "RescaleSlope of 0"),
        (lambda one: setattr(one, "PhotometricInterpretation", "PALETTE COLOR"), None, "holds colours"),
        (lambda one: setattr(one, "Modality", "PT"), 1, "the modality PT"),
        (lambda one: setattr(one, "PatientID", "OTHER"), 1, "another patient"),
    ],
)
def test_what_would_give_other_values_is_refused_by_name(
    tmp_path: Path, edit: Callable[[pydicom.Dataset], None], only: int | None, message: str
) -> None:
    with pytest.raises(MedsegError, match=message) as refused:
        read_image(_edited(tmp_path / "s", edit, only=only))
    assert "OTHER" not in str(refused.value)
    assert "CANARY" not in str(refused.value)
