"""A Siemens mosaic is the slices it was made from, each where its own position says; refused where that cannot be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.errors import MedsegError
from medseg.io.formats.dicom_seg import Segment, write_segmentation
from medseg.io.formats.siemens_csa import parse_csa
from medseg.io.volume import read_header, read_image
from tests.io.dicom_maker import STRAIGHT, change, make_mosaic, make_series, voxels

SHAPE = (8, 6, 7)  # seven slices: three tiles across, two of nine empty


def oblique() -> tuple[np.ndarray, np.ndarray]:
    first, second = 0.3, -0.5
    turn = np.array([[np.cos(first), -np.sin(first), 0], [np.sin(first), np.cos(first), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(second), -np.sin(second)], [0, np.sin(second), np.cos(second)]])
    return turn[:, 0], turn[:, 1]


def series_and_mosaic(
    folder: Path, directions: tuple[np.ndarray, np.ndarray] = STRAIGHT, **how: object
) -> tuple[Path, Path]:
    """A series of single slices, and the mosaic of the same."""
    slices = make_series(folder / "series", voxels(SHAPE), directions=directions, Modality="MR")
    return folder / "series", make_mosaic(folder / "mosaic" / "one.IMA", slices, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("downwards", [False, True])
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    "directions", [STRAIGHT, oblique(), (STRAIGHT[1], STRAIGHT[0])], ids=["straight", "oblique", "left-handed"]
)
def test_a_mosaic_is_its_slices_at_their_own_places(
    tmp_path: Path, directions: tuple[np.ndarray, np.ndarray], older: bool, downwards: bool
) -> None:
    series, mosaic = series_and_mosaic(tmp_path, directions, older=older, downwards=downwards)
    volume, single = read_image(mosaic), read_image(series)
    np.testing.assert_array_equal(volume.array, single.array)
    np.testing.assert_allclose(volume.affine, single.affine, atol=1e-6)
    assert read_header(mosaic.parent).series == (mosaic,)
    assert not volume.header.warnings


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
@pytest.mark.parametrize("directions", [STRAIGHT, oblique()], ids=["straight", "oblique"])
def test_each_slice_lies_where_another_reader_puts_it(
    tmp_path: Path, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    _, mosaic = series_and_mosaic(tmp_path, directions)
    dataset = pydicom.dcmread(mosaic)
    other = wrapper_from_data(dataset)  # nibabel's: [row, column, slice], world in LPS
    array, turned = other.get_data(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine
    volume = read_image(mosaic)
    for index in np.ndindex(SHAPE):
        column, row, plane = index
        assert volume.array[(0, *index)] == array[row, column, plane]
        here = volume.affine @ [*index, 1]
        np.testing.assert_allclose(here, turned @ [row, column, plane, 1], atol=1e-4)


def test_the_number_of_slices_also_stands_in_the_other_private_block(tmp_path: Path) -> None:
    series, mosaic = series_and_mosaic(tmp_path, NumberOfImagesInMosaic=None)
    dataset = pydicom.dcmread(mosaic)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", SHAPE[2])
    dataset.save_as(mosaic)
    np.testing.assert_array_equal(read_image(mosaic).array, read_image(series).array)


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        ({"NumberOfImagesInMosaic": None}, {}, "no private header .SIEMENS CSA HEADER. that says how many"),
        ({"NumberOfImagesInMosaic": ["0"]}, {}, "mosaic of 0 slices"),
        ({"NumberOfImagesInMosaic": ["6"]}, {}, "counts 6 slices, and shows another at row 12, column 0"),
        ({"NumberOfImagesInMosaic": ["20"]}, {}, "not 5 tiles wide"),
        ({"SliceNormalVector": None}, {}, "no SliceNormalVector"),
        ({"SliceNormalVector": ["1.0", "0.0", "0.0"]}, {}, "not along their plane's normal"),
        ({"SliceNormalVector": ["0.0", "0.0", "0.0"]}, {}, "not along their plane's normal"),
        ({"SliceNormalVector": ["nan", "0.0", "0.0"]}, {}, "not along their plane's normal"),
        ({"ProtocolSliceNumber": ["6"]}, {}, "reversed image numbering"),
        ({}, {"SpacingBetweenSlices": None, "SliceThickness": None}, "without SpacingBetweenSlices"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_mosaic_that_cannot_be_split_is_refused_with_the_way_out(
    tmp_path: Path, fields: dict[str, list[str] | None], changes: dict[str, object], message: str
) -> None:
    _, mosaic = series_and_mosaic(tmp_path, **fields)
    if changes:
        change(mosaic, **changes)
    with pytest.raises(MedsegError, match=message) as refused:
        read_image(mosaic)
    assert "export the series again" in str(refused.value)
    assert "CANARY" not in str(refused.value)


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    _, mosaic = series_and_mosaic(tmp_path)
    dataset = pydicom.dcmread(mosaic)
    dataset.remove_private_tags()
    dataset.save_as(mosaic)
    with pytest.raises(MedsegError, match="de-identification removes it"):
        read_image(mosaic)


def test_a_thickness_in_place_of_the_distance_is_said(tmp_path: Path) -> None:
    _, mosaic = series_and_mosaic(tmp_path)
    change(mosaic, SpacingBetweenSlices=None)
    assert "taken to be 2.5 mm apart" in " ".join(read_header(mosaic).warnings)


def test_no_dicom_seg_is_made_of_a_mosaic(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    _, mosaic = series_and_mosaic(tmp_path)
    header = read_header(mosaic)
    with pytest.raises(MedsegError, match=r"is a mosaic, and a DICOM SEG refers to slices .* NIfTI or NRRD"):
        write_segmentation(tmp_path / "seg.dcm", np.ones(SHAPE, dtype=np.uint8), header, {1: Segment("liver")})


def test_mosaics_of_several_times_are_refused(tmp_path: Path) -> None:
    series, mosaic = series_and_mosaic(tmp_path)
    make_mosaic(
        mosaic.with_name("two.IMA"), sorted(series.iterdir(), key=lambda one: pydicom.dcmread(one).InstanceNumber)
    )
    with pytest.raises(MedsegError, match="same position"):
        read_header(mosaic.parent)


@pytest.mark.parametrize("older", [False, True])
def test_any_cut_of_the_private_header_is_read_or_left_out(tmp_path: Path, older: bool) -> None:
    _, mosaic = series_and_mosaic(tmp_path, older=older)
    whole = pydicom.dcmread(mosaic).private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value
    fields = parse_csa(whole)
    assert fields["NumberOfImagesInMosaic"][0] == "7"
    for end in range(len(whole)):
        assert parse_csa(whole[:end]).items() <= fields.items()
