"""Every file that a volume is made of counts, wherever its voxels lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.errors import DataError
from medseg.io.behind import case_digest, files_behind, read_unchanged, volume_digest
from medseg.io.datalist import Case
from tests.io.dicom_maker import make_series

pytestmark = pytest.mark.requirement("R8")


def _pair(folder: Path, seed: int) -> Path:
    nibabel.Nifti1Pair(_voxels(seed), np.eye(4)).to_filename(folder / "x.hdr")
    return folder / "x.hdr"


def _data_half(folder: Path, seed: int) -> Path:
    return _pair(folder, seed).with_suffix(".img")


def _meta(folder: Path, seed: int) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(_voxels(seed)), str(folder / "x.mhd"))
    return folder / "x.mhd"


def _nrrd(folder: Path, seed: int) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(_voxels(seed)), str(folder / "x.nhdr"))
    return folder / "x.nhdr"


def _series(folder: Path, seed: int) -> Path:
    make_series(folder / "series", _voxels(seed))
    return folder / "series"


def _voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 99, (5, 6, 4)).astype(np.int16)


@pytest.mark.parametrize("make", [_pair, _data_half, _meta, _nrrd, _series])
def test_two_scans_with_one_header_have_two_digests(tmp_path: Path, make: Callable[[Path, int], Path]) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    first, same, other = make(tmp_path / "a", 1), make(tmp_path / "b", 1), make(tmp_path / "c", 2)
    assert volume_digest(first) == volume_digest(same) or first.is_dir()  # DICOM files carry unique identifiers
    assert volume_digest(first) != volume_digest(other)
    assert len(files_behind(first)) == (4 if first.is_dir() else 2)


def test_a_numbered_pattern_and_a_list_name_all_their_files(tmp_path: Path) -> None:
    for number in range(1, 4):
        (tmp_path / f"s{number:02d}.raw").write_bytes(bytes(8))
    (tmp_path / "p.mhd").write_text("NDims = 3\nElementDataFile = s%02d.raw 1 3 1\n")
    (tmp_path / "l.nhdr").write_text("NRRD0004\ndata file: LIST\ns01.raw\ns03.raw\n")
    assert [one.name for one in files_behind(tmp_path / "p.mhd")] == ["p.mhd", "s01.raw", "s02.raw", "s03.raw"]
    assert [one.name for one in files_behind(tmp_path / "l.nhdr")] == ["l.nhdr", "s01.raw", "s03.raw"]


def test_a_header_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.mhd").write_text("NDims = 3\nElementDataFile = ../secret\n")
    assert len(files_behind(tmp_path / "in" / "p.mhd")) == 1


def test_the_order_and_the_gaps_of_channels_are_part_of_a_case(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"a")
    (tmp_path / "b.nii").write_bytes(b"b")
    a, b = tmp_path / "a.nii", tmp_path / "b.nii"
    cases = [Case("x", (a, b)), Case("x", (b, a)), Case("x", (a,)), Case("x", (a,), missing=(1,))]
    assert len({case_digest(case) for case in cases}) == 4


def test_a_file_exchanged_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.nii", []
    path.write_bytes(b"first")

    def read() -> bytes:
        seen.append(path.read_bytes())
        if len(seen) == 1:
            (tmp_path / "n").write_bytes(b"other")
            (tmp_path / "n").replace(path)
        return seen[-1]

    assert read_unchanged([path], read) == b"other"
    assert seen == [b"first", b"other"]


def test_a_file_that_never_rests_is_an_error_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"")

    def read() -> None:
        with open(path, "ab") as stream:
            stream.write(b"more")

    with pytest.raises(DataError, match=r"a\.nii: was written while it was read"):
        read_unchanged([path], read)
