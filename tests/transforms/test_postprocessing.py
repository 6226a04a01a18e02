"""Post-processing steps on scenes drawn by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg.errors import ConfigError
from medseg.transforms.monai import PostprocessLabeld
from medseg.transforms.postprocessing import Postprocessing, describe, drop_small, fill_holes, keep_largest

AFFINE = np.diag([-1.0, 1.0, 5.0, 1.0])  # voxels of 5 mm3, left-handed on purpose


def _scene() -> np.ndarray:
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[2:8, 2:8, 2:8] = 1
    label[8:10, 2:8, 2:8] = 2  # touches label 1
    label[15, 15, 15] = 1
    label[4, 4, 4] = 0  # a hole in label 1
    label[5, 5, 5] = 2  # another label inside label 1
    return label


def test_largest_component_of_each_label() -> None:
    label = _scene()
    kept = keep_largest(label, [1, 2], AFFINE)
    assert kept[15, 15, 15] == 0
    assert kept[5, 5, 5] == 0  # a small part of label 2
    assert (kept == 1).sum() == (label == 1).sum() - 1
    assert label[15, 15, 15] == 1  # the input is as it was


def test_largest_component_of_labels_together() -> None:
    label = _scene()
    kept = keep_largest(label, [1, 2], AFFINE, together=True)
    assert kept[15, 15, 15] == 0
    assert kept[5, 5, 5] == 2
    assert (kept == 2).sum() == (label == 2).sum()


def test_holes_are_filled_and_other_labels_kept() -> None:
    filled = fill_holes(_scene(), [1], AFFINE)
    assert filled[4, 4, 4] == 1
    assert filled[5, 5, 5] == 2
    assert filled[0, 0, 0] == 0


def test_hole_in_a_single_slice() -> None:
    ring = np.zeros((7, 7, 1), dtype=np.uint8)
    ring[1:6, 1:6] = 3
    ring[3, 3] = 0
    assert fill_holes(ring, [3], AFFINE)[3, 3, 0] == 3


def test_small_components_go_by_volume() -> None:
    label = _scene()
    assert drop_small(label, [1], AFFINE, millilitres=0.0051)[15, 15, 15] == 0
    assert drop_small(label, [1], AFFINE, millilitres=0.0049)[15, 15, 15] == 1
    assert (drop_small(label, [2], AFFINE, millilitres=100.0) == 2).sum() == 0


def test_nothing_to_do_changes_nothing() -> None:
    empty = np.zeros((5, 4, 3), dtype=np.int16)
    steps: list[dict[str, Any]] = [{"kind": kind, "labels": [7]} for kind in ("largest_component", "fill_holes")]
    steps.append({"kind": "minimum_size", "labels": [7], "millilitres": 1.0})
    np.testing.assert_array_equal(Postprocessing(steps)(empty, AFFINE), empty)
    assert not Postprocessing()
    assert [describe(step) for step in steps] == ["largest component", "fill holes", "components from 1 ml on"]


def test_steps_survive_json_and_monai_gives_the_same() -> None:
    steps = [{"kind": "largest_component", "labels": [1]}, {"kind": "fill_holes", "labels": [1]}]
    chain = Postprocessing(steps)
    assert Postprocessing(chain.to_list()).to_list() == steps
    tensor = MetaTensor(torch.from_numpy(_scene())[None], affine=torch.from_numpy(AFFINE))
    out = PostprocessLabeld("pred", steps)({"pred": tensor})["pred"]
    np.testing.assert_array_equal(out[0].numpy(), chain(_scene(), AFFINE))
    assert torch.equal(out.affine, tensor.affine)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "largest_components", "labels": [1]}, "Did you mean largest_component"),
        ({"kind": "fill_holes"}, "names no labels"),
        ({"kind": "fill_holes", "labels": [1], "size": 3}, "no setting 'size'"),
        ({"kind": "minimum_size", "labels": [1]}, "needs millilitres"),
    ],
)
def test_wrong_steps_are_named(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Postprocessing([step])
