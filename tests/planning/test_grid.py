from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.errors import ConfigError
from medseg.planning.folds import make_splits
from medseg.planning.grid import choose_dimensions, choose_grid, coarser_grid
from medseg.planning.planner import Request, coarse_plan, make_plan
from tests.planning.test_planner import fingerprint_of, open_dataset_of


@pytest.mark.parametrize(
    ("spacing", "shape", "dims", "words"),
    [
        ([1.0, 1.0, 1.0], [100, 100, 100], 3, "thin enough"),
        ([0.7, 0.7, 5.0], [512, 512, 60], 3, "7.1 times as thick"),
        ([0.5, 0.5, 7.5], [320, 320, 12], 2, "15.0 times as thick"),
        ([1.2, 1.2, 6.0], [256, 256, 5], 2, "5 slices along S"),
        ([1.2, 1.2, 6.0], [12, 12, 7], 2, "only 7 of them"),
    ],
)
def test_slices_that_are_too_thick_are_learnt_one_by_one(spacing, shape, dims, words) -> None:
    found, reason = choose_dimensions(fingerprint_of(median_spacing=spacing, median_shape=shape))
    assert found == dims
    assert words in reason
    assert choose_dimensions(fingerprint_of(median_spacing=spacing, median_shape=shape), 3)[0] == 3


@pytest.mark.parametrize(
    ("shape", "spacing", "orientation", "words"),
    [
        ([40, 40, 1], [1.0, 1.0, 1.0], "RAS", "single slices along S"),
        ([1, 44, 40], [1.0, 1.0, 1.0], "ASR", "single slices along R"),
        ([40, 1, 44], [1.0, 0.5, 3.0], "RSA", "single slices along A"),
        ([40, 44, 3], [1.0, 1.0, 0.2], "RAS", "3 slices along S"),
        ([512, 512, 7], [0.7, 0.7, 0.7], "RAS", "7 slices along S"),
    ],
)
def test_datasets_of_single_and_few_slices_are_two_dimensional(shape, spacing, orientation, words) -> None:
    facts = fingerprint_of(median_spacing=spacing, median_shape=shape, spacing_p10=spacing)
    dims, reason = choose_dimensions(facts)
    assert dims == 2
    assert words in reason
    grid, _ = choose_grid(facts, dims)
    assert grid.orientation == orientation
    assert grid.shape[2] == pytest.approx(min(shape))


def test_small_volumes_and_thin_slabs_stay_volumes() -> None:
    for shape in ([7, 7, 7], [10, 12, 6], [40, 40, 8]):
        assert choose_dimensions(fingerprint_of(median_shape=shape))[0] == 3


def test_other_numbers_of_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 dimensions were asked for; expected 2 or 3"):
        choose_dimensions(fingerprint_of(), 4)


def test_sagittal_slices_become_the_last_axis() -> None:
    facts = fingerprint_of(median_spacing=[8.0, 0.9, 0.8], median_shape=[15, 256, 300], spacing_p10=[6.0, 0.9, 0.8])
    grid, reason = choose_grid(facts, 2)
    assert (grid.orientation, grid.spacing, grid.shape) == ("ASR", [0.9, 0.8, 8.0], [256, 300, 15])
    assert "along R" in reason


def big(**changes: object):
    return fingerprint_of(median_shape=[400.0, 400.0, 300.0], **changes)


def test_little_context_plans_a_low_resolution_network_too(tmp_path: Path) -> None:
    dataset = open_dataset_of(tmp_path)
    splits = make_splits(dataset.cases)
    plan = make_plan(dataset, big(), splits, Request(name="balls"))
    assert plan.low_resolution is not None
    coarse = coarse_plan(plan)
    assert min(coarse.spacing) > 3 * max(plan.spacing)
    shape = [n / step for n, step in zip([400, 400, 300], coarse.spacing, strict=True)]
    assert math.prod(coarse.roi_size) >= 0.35 * math.prod(shape)
    assert math.prod(coarse.roi_size) <= 1.2 * math.prod(plan.roi_size)
    assert coarse.low_resolution is None
    assert coarse.splits == plan.splits
    assert "predict --fast" in plan.reasons["low_resolution"]
    assert make_plan(dataset, big(), splits, Request(name="balls", stages=1)).low_resolution is None
    assert make_plan(dataset, fingerprint_of(), splits, Request(name="balls")).low_resolution is None
    assert make_plan(dataset, fingerprint_of(), splits, Request(name="balls", stages=2)).low_resolution is not None


def test_the_finest_axes_are_coarsened_first(tmp_path: Path) -> None:
    grid, _ = choose_grid(big(median_spacing=[0.8, 0.8, 2.0]), 3)
    coarse = coarser_grid(grid, 1e7)
    assert coarse.spacing[2] == 2.0
    assert 0.8 < coarse.spacing[0] <= 2.0


def test_a_plan_for_slices_has_two_values_where_volumes_have_three(tmp_path: Path) -> None:
    dataset = open_dataset_of(tmp_path)
    facts = fingerprint_of(
        median_spacing=[0.5, 0.5, 7.5], median_shape=[320.0, 320.0, 12.0], spacing_p10=[0.5, 0.5, 7.5]
    )
    plan = make_plan(dataset, facts, make_splits(dataset.cases), Request(name="balls"))
    assert (plan.spatial_dims, plan.network["spatial_dims"], len(plan.roi_size)) == (2, 2, 2)
    assert plan.batch_size >= 4
    assert plan.augmentation["mirror_axes"] == [0]
    assert plan.low_resolution is None
    assert "times as thick" in plan.reasons["spatial_dims"]
    assert replace(plan, regions=[]) == plan


def test_without_a_gpu_small_crops_get_a_coarser_grid_and_with_one_they_do_not(tmp_path: Path) -> None:
    dataset = open_dataset_of(tmp_path)
    facts = fingerprint_of(median_shape=[200.0, 140.0, 88.0], median_spacing=[0.6] * 3, spacing_p10=[0.6] * 3)
    splits = make_splits(dataset.cases)
    slow = make_plan(dataset, facts, splits, Request(name="balls"))
    assert all(0.6 < step <= 1.2 for step in slow.spacing)
    assert "without a GPU" in slow.reasons["spacing"]
    assert "coarsened" not in make_plan(dataset, facts, splits, Request(name="balls", gpu=True)).reasons["spacing"]
    assert make_plan(dataset, facts, splits, Request(name="balls", memory_bytes=8e9)).spacing == [0.6] * 3


def test_small_lesions_keep_the_fine_grid(tmp_path: Path) -> None:
    dataset = open_dataset_of(tmp_path)
    facts = fingerprint_of(median_shape=[200.0, 140.0, 88.0], median_spacing=[0.6] * 3, spacing_p10=[0.6] * 3)
    lesions = replace(facts, label_volume_ml={1: 1.5}, label_pieces={1: {"median": 30.0, "most": 50.0}})
    plan = make_plan(dataset, lesions, make_splits(dataset.cases), Request(name="balls"))
    assert plan.spacing == [0.6] * 3
    assert "kept, though" in plan.reasons["spacing"]


def test_a_small_unit_keeps_the_digits_of_its_spacing() -> None:
    """Metres written where millimetres belong, or microscopy: planned as it is, never as 0."""
    step = 0.000123456
    small = replace(fingerprint_of(), median_spacing=[step] * 3, spacing_p10=[step] * 3)
    assert choose_grid(small, 3)[0].spacing == pytest.approx([step] * 3, rel=1e-3)
