"""What a page carries of a case: its own values at their own places, little of it, and a word on what was left out."""

from __future__ import annotations

import gzip
import itertools
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.evaluation.report.viewer.volumes import EMBEDDED, Limits, Scan, viewer_case

WHOLE = Limits(voxels=10**9, cropped=False, stored=np.int16)


def _file(case: Any, kind: str) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(case.volumes[kind])


def _turned(array: np.ndarray, codes: str, oblique: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The same patient stored with other axes."""
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-11.0, 7.0, 30.0)
    if oblique:
        angle = np.radians(20)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    way = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    return nibabel.apply_orientation(array, way), affine @ nibabel.orientations.inv_ornt_aff(way, array.shape)


@pytest.mark.parametrize(("codes", "oblique"), [("RAS", False), ("LPS", False), ("PIR", False), ("RAS", True)], ids=str)
def test_every_voxel_of_the_page_is_a_voxel_of_the_file_at_its_place(codes: str, oblique: bool) -> None:
    image = np.arange(13 * 10 * 9, dtype=np.float32).reshape(13, 10, 9)
    label = np.where(image % 7 == 0, 3, 0).astype(np.uint8)
    (stored, affine), (map_, _) = _turned(image, codes, oblique), _turned(label, codes, oblique)
    case = viewer_case(
        "a", "x", Scan(stored, map_, None, affine), {3: "three"}, limits=Limits(300, 8, 0, False, np.int16)
    )
    shown, labels = _file(case, "image"), _file(case, "prediction")
    assert nibabel.aff2axcodes(shown.affine) == ("R", "A", "S")
    assert max(shown.shape) <= 8
    for place in itertools.product(*map(range, shown.shape)):
        mm = shown.affine @ [*place, 1]
        index = tuple(np.linalg.inv(affine) @ mm)[:3]
        near = tuple(round(i) for i in index)
        assert np.allclose(index, near, atol=1e-3)
        assert shown.get_fdata()[place] == pytest.approx(stored[near], abs=1e-3)
        assert (labels.get_fdata()[place] == 1) == (map_[near] == 3)
    assert any("Thinned out" in note for note in case.facts["notes"])


def test_a_page_carries_no_more_bytes_than_it_may() -> None:
    image = np.random.default_rng(0).normal(size=(140, 120, 100)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[10:130, 10:110, 10:90] = 1
    case = viewer_case("a", "x", Scan(image, label, label, np.eye(4)), {1: "one"})
    assert sum(len(gzip.compress(volume, 9)) for volume in case.volumes.values()) <= EMBEDDED.packed
    assert case.facts["labels"][0]["prediction"] == "960 ml"  # of the whole grid
    assert any("Thinned out" in note for note in case.facts["notes"])
    assert not _file(case, "disagreement").get_fdata().any()


def test_missed_and_extra_voxels_are_told_apart() -> None:
    reference, prediction = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    reference[1:3, 2, 2], prediction[2:4, 2, 2] = 5, 5
    case = viewer_case("a", "x", Scan(np.zeros((6, 6, 6)), prediction, reference, np.eye(4)), {}, limits=WHOLE)
    assert _file(case, "disagreement").get_fdata()[:, 2, 2].tolist() == [0, 1, 0, 2, 0, 0]
    (label,) = case.facts["labels"]
    assert label["name"] == "5 (undeclared: no name is known for it)"
    assert label["place"] in ([2.0, 2.0, 2.0], [3.0, 2.0, 2.0])


@pytest.mark.parametrize("value", [0.0, -7.5, 1e30])
def test_a_constant_image_and_no_label_are_shown(value: float) -> None:
    image = np.full((5, 4, 1), value)
    for limits in (EMBEDDED, WHOLE):
        case = viewer_case("a", "x", Scan(image, None, None, np.eye(4)), {}, limits=limits)
        assert _file(case, "image").get_fdata()[0, 0, 0] == pytest.approx(image[0, 0, 0], rel=1e-5)
        assert case.facts["labels"] == []
        assert all(low < high for _, low, high in case.facts["windows"])


def test_more_labels_than_bytes_share_the_last_colour() -> None:
    label = np.arange(300, dtype=np.int32).reshape(10, 10, 3)
    case = viewer_case("a", "x", Scan(np.zeros(label.shape), label, None, np.eye(4)), {}, limits=WHOLE)
    assert len(case.facts["labels"]) == 255
    assert case.facts["labels"][-1]["name"] == "45 further values"
    assert _file(case, "prediction").get_fdata().max() == 255


def test_a_ct_has_its_windows() -> None:
    image = np.full((4, 4, 4), 40.0)
    image[0] = -1000
    names = [name for name, *_ in viewer_case("a", "x", Scan(image, None, None, np.eye(4)), {}).facts["windows"]]
    assert {"soft tissue", "lung", "bone", "brain"} <= set(names)
