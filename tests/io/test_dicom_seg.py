"""DICOM SEG: what highdicom and pydicom read back is what was segmented, where it was segmented."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.errors import DataError, GridMismatchError, LabelError
from medseg.io.formats.dicom_seg import ABNORMAL, ANATOMY, TISSUE, Code, Segment, segment_for, write_segmentation
from medseg.io.header import Header
from medseg.io.volume import read_header
from tests.io.dicom_maker import change, make_series, voxels

SEGMENTS = {1: segment_for("liver"), 4: segment_for("Left Kidney"), 9: segment_for("strange thing")}


def test_segments_come_back_on_the_slices_they_were_drawn_on(tmp_path: Path) -> None:
    make_series(tmp_path / "ct")
    header = read_header(tmp_path / "ct")
    label = np.zeros(header.shape, np.int16)
    label[1:3, 2:5, 1] = 4
    label[6, 5, 4] = 1
    write_segmentation(tmp_path / "seg.dcm", label, header, SEGMENTS)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["liver", "Left Kidney"]
    assert seg.get_segment_description(1).segmented_property_type.value == "10200004"
    sources = [pydicom.dcmread(path).SOPInstanceUID for path in header.series]
    planes = seg.get_pixels_by_source_instance(sources, combine_segments=True, assert_missing_frames_are_empty=True)
    expected = np.select([label == 1, label == 4], [1, 2], 0).transpose(2, 1, 0)
    np.testing.assert_array_equal(planes, expected)
    assert seg.PatientID == "CANARY-ID", "a derived object stays in its patient's study"


def test_nothing_found_is_an_answer(tmp_path: Path) -> None:
    make_series(tmp_path / "ct")
    header = read_header(tmp_path / "ct")
    write_segmentation(tmp_path / "seg.dcm", np.zeros(header.shape, np.uint8), header, SEGMENTS)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.number_of_segments == 3
    assert not seg.pixel_array.any()


def test_names_find_their_snomed_codes() -> None:
    assert segment_for("spleen").kind == Code("78961009", "SCT", "Spleen")
    assert segment_for("Kidney_left").kind.meaning == "Kidney"
    assert segment_for("grey matter").kind.meaning == "Gray Matter"
    assert segment_for("tumor") == Segment("tumor", ABNORMAL, Code("108369006", "SCT", "Neoplasm"))
    assert segment_for("label_7") == Segment("label_7", ANATOMY, TISSUE)
    given = {"type": {"value": "T-1", "scheme": "99X", "meaning": "Mine"}}
    assert segment_for("liver", given).kind == Code("T-1", "99X", "Mine")
    with pytest.raises(LabelError, match=r"label 'liver': its code .* has no 'scheme'"):
        segment_for("liver", {"type": {"value": "1"}})


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    make_series(tmp_path / "ct")
    header = read_header(tmp_path / "ct")
    label = np.ones(header.shape, np.uint8)
    out = tmp_path / "seg.dcm"
    with pytest.raises(LabelError, match=r"seg\.dcm: no label has a name"):
        write_segmentation(out, label * 0, header, {})
    with pytest.raises(LabelError, match="the label value 2 has no name"):
        write_segmentation(out, label * 2, header, SEGMENTS)
    with pytest.raises(GridMismatchError, match="for a series of"):
        write_segmentation(out, label[1:], header, SEGMENTS)
    with pytest.raises(DataError, match=r"refers to a DICOM series, but .* is none"):
        write_segmentation(out, label, Header.of_array(voxels().shape, np.eye(4)), SEGMENTS)
    assert not out.exists()


@pytest.mark.parametrize("removed", ["all", "PatientID", "StudyTime", "AccessionNumber", "SeriesNumber"])
def test_a_series_without_names_and_dates_gets_a_segmentation(tmp_path: Path, removed: str) -> None:
    absent = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
              "ReferringPhysicianName", "SeriesNumber") if removed == "all" else (removed,)  # fmt: skip
    for path in make_series(tmp_path / "s"):
        change(path, **dict.fromkeys(absent))
    header = read_header(tmp_path / "s")
    label = np.zeros(header.shape, np.uint8)
    label[2:4, 2:4, 1:3] = 1
    write_segmentation(tmp_path / "seg.dcm", label, header, {1: segment_for("liver")})
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert all(not written.get(keyword) for keyword in absent if keyword != "SeriesNumber")
    assert int(written.pixel_array.sum()) == 8


def test_a_series_without_a_study_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in make_series(tmp_path / "s"):
        change(path, StudyInstanceUID=None)
    header = read_header(tmp_path / "s")
    with pytest.raises(DataError, match="no DICOM SEG can refer to it"):
        write_segmentation(tmp_path / "seg.dcm", np.ones(header.shape, np.uint8), header, {1: segment_for("liver")})
