from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medseg.datasets import Dataset, open_dataset
from medseg.errors import BundleError, DataError, GridMismatchError, LabelError
from medseg.io.datalist import Case
from medseg.io.volume import read_header, write_image, write_label
from medseg.planning.crops import choose_roi_size, choose_strides
from medseg.planning.fingerprint import Fingerprint, measure
from medseg.planning.folds import check_splits, make_splits
from medseg.planning.grid import choose_spacing
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan
from medseg.planning.recipe import choose_augmentation, choose_normalization
from tests.volumes import ball, make_case

LABELS = {0: "background", 1: "ball"}


def fingerprint_of(**changes: object) -> Fingerprint:
    facts = Fingerprint(
        cases=10,
        median_shape=[35.0, 50.0, 36.0],
        median_spacing=[1.0, 1.0, 1.0],
        smallest_spacing=[1.0, 1.0, 1.0],
        largest_spacing=[1.0, 1.0, 1.0],
        spacing_p10=[1.0, 1.0, 1.0],
        largest_shape=[43, 59, 47],
        label_cases={1: 10},
        label_volume_ml={1: 1.5},
        intensity=[{"mean": 40.0, "std": 20.0, "p0_5": -100.0, "p99_5": 200.0, "minimum": -1000.0, "maximum": 900.0}],
        orientations={"RAS": 10},
    )
    return replace(facts, **changes)


def as_dataset(folder: Path, cases: list[Case]) -> Dataset:
    return Dataset("balls", folder, cases, [], LABELS, {0: "MRI"})


def test_measuring_finds_volume_spacing_and_orientation(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, f"c{i}", shape=(20, 18, 16), spacing=(1.0, 1.0, 2.5), radius=5) for i in range(3)]
    found = measure(as_dataset(tmp_path, cases))
    assert found.median_spacing == [1.0, 1.0, 2.5]
    assert found.median_shape == [20.0, 18.0, 16.0]
    assert found.label_volume_ml[1] == pytest.approx(int(ball((20, 18, 16), 5).sum()) * 2.5 / 1000)


def test_pieces_of_each_label_and_odd_headers_are_counted(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, f"c{i}", radius=3) for i in range(3)]
    for number, case in enumerate(cases):
        assert case.label is not None
        header, label = read_header(case.label), np.zeros((16, 16, 16), np.uint8)
        label[1:3, 1:3, 1:3] = label[3, 3, 3] = 1  # touches by a corner: one piece
        label[8 : 9 + 2 * number : 2, 8, 8] = 1  # and others apart
        label[15, 15, 15] = 255
        write_label(case.label, label, like=header)
    for path in (*cases[2].images, cases[2].label):
        volume = nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj), None)
        volume.header["sform_code"] = volume.header["qform_code"] = 0
        nibabel.save(volume, path)
    dataset = replace(as_dataset(tmp_path, cases), ignore_label=255)
    found = measure(dataset)
    assert found.label_pieces == {1: {"median": 3.0, "most": 4.0}}
    assert list(found.label_cases) == [1]  # 255 is no label
    ((fault, count),) = found.geometry_faults.items()
    assert fault.startswith("has neither qform nor sform")
    assert count == 1
    plan = make_plan(dataset, found, make_splits(cases, 2), Request(name="b"))
    assert f"1 of 3 cases: {fault}" in plan.warnings
    assert "label 1 ball: in 3 cases" in plan.explain()
    assert "3 pieces, at most 4" in plan.explain()


@pytest.mark.parametrize(
    ("preset", "gpu", "expected"),
    [("resenc_unet", True, "sgd"), ("mednext", True, "sgd"), ("mambavision", True, "adamw"), ("umamba_bot", True, "adamw"),
     ("resenc_unet", False, "adamw"), ("mambavision", False, "adamw")],
)  # fmt: skip
def test_nnunets_recipe_is_the_default_and_token_networks_get_adamw(
    tmp_path: Path, preset: str, gpu: bool, expected: str
) -> None:
    dataset = as_dataset(tmp_path, [make_case(tmp_path, f"c{i}") for i in range(2)])
    plan = make_plan(
        dataset, fingerprint_of(), make_splits(dataset.cases, 2), Request(name="b", preset=preset, gpu=gpu)
    )
    assert plan.optimization["optimizer"] == expected
    assert ("warm" in plan.reasons["optimization"]) == (expected == "adamw")
    assert (plan.optimization["warmup_steps"] > 0) == (expected == "adamw")


def test_every_faulty_case_is_named_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = [make_case(tmp_path, f"c{i}", value=1 if i == 1 else 7) for i in range(3)]
    with pytest.raises(LabelError, match=r"c0.*1 more cases are faulty too, listed above"):
        measure(as_dataset(tmp_path, cases))
    assert "refused as well" in caplog.text
    assert "c2.nii.gz" in caplog.text


def test_axes_are_measured_in_ras_order_whatever_the_file_has(tmp_path: Path) -> None:
    permuted = np.array([[0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # axes A, S, L
    found = measure(as_dataset(tmp_path, [make_case(tmp_path, "c", shape=(10, 12, 14), affine=permuted)]))
    assert found.median_spacing == [3.0, 1.0, 2.0]
    assert found.median_shape == [14.0, 10.0, 12.0]
    assert found.orientations == {"ASL": 1}


def test_image_and_label_on_different_grids_are_refused_with_the_case_name(tmp_path: Path) -> None:
    good = make_case(tmp_path, "good")
    other = make_case(tmp_path, "other", shape=(9, 9, 9), radius=2)
    with pytest.raises(GridMismatchError, match=r"case 'mixed'.*resample_to_grid"):
        measure(as_dataset(tmp_path, [Case("mixed", good.images, other.label)]))


def test_an_undeclared_label_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"undeclared label value 7 .*declared are 0, 1"):
        measure(as_dataset(tmp_path, [make_case(tmp_path, "c", value=7)]))


def test_nan_voxels_are_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path, "c")
    write_image(case.images[0], np.full((1, 16, 16, 16), np.nan, np.float32), like=read_header(case.images[0]))
    with pytest.raises(DataError, match="holds nan"):
        measure(as_dataset(tmp_path, [case]))


def test_labels_that_are_empty_everywhere_are_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path, "c")
    assert case.label is not None
    write_label(case.label, np.zeros((16, 16, 16), np.uint8), like=read_header(case.images[0]))
    with pytest.raises(LabelError, match="all 1 label maps are empty"):
        measure(as_dataset(tmp_path, [case]))


def test_the_folds_are_those_of_nnunet(real_data: Path) -> None:
    folder = real_data / "hippocampus"
    dataset = open_dataset(folder)
    expected = json.loads((folder / "splits_final.json").read_text())
    made = make_splits(dataset.cases)
    assert [sorted(split["val"]) for split in made] == [sorted(split["val"]) for split in expected]
    assert [sorted(split["train"]) for split in made] == [sorted(split["train"]) for split in expected]


def test_a_subject_is_never_in_training_and_validation() -> None:
    cases = [Case(f"s{s}_v{v}", (Path("x"),), Path("y"), subject=f"s{s}") for s in range(7) for v in range(3)]
    splits = make_splits(cases, 3)
    check_splits(splits, cases)
    assert sorted(name for split in splits for name in split["val"]) == sorted(case.name for case in cases)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": ["a"], "val": ["zebra"]}, "names 1 cases that the dataset does not have: zebra"),
        ({"train": ["a"], "val": ["b"]}, "fold 0 leaks"),
        ({"train": ["a"], "val": []}, "0 validation cases"),
    ],
)
def test_bad_folds_are_refused(split: dict[str, list[str]], words: str) -> None:
    cases = [Case(name, (Path("x"),), Path("y"), subject="same") for name in ("a", "b")]
    with pytest.raises(DataError, match=words):
        check_splits([split], cases)


def test_a_crop_covers_small_cases_whole_and_large_ones_nearly_cubic() -> None:
    assert choose_roi_size([35, 50, 36], [1, 1, 1], [8, 8, 8], 2e5)[0] == [40, 56, 40]
    roi, reason = choose_roi_size([512, 512, 300], [0.8, 0.8, 2.0], [8, 8, 8], 3e5)
    assert math.prod(roi) <= 3e5
    extents = [n * s for n, s in zip(roi, [0.8, 0.8, 2.0], strict=True)]
    assert max(extents) / min(extents) < 1.4
    assert "%" in reason


def test_a_coarse_axis_keeps_its_slices_until_the_others_catch_up() -> None:
    strides = choose_strides([256, 256, 32], [0.8, 0.8, 5.0], [[1, 1, 1], *[[2, 2, 2]] * 4])
    assert [step[2] for step in strides] == [1, 1, 1, 2, 2]
    assert [step[0] for step in strides] == [1, 2, 2, 2, 2]
    spacing, reason = choose_spacing(fingerprint_of(median_spacing=[0.8, 0.8, 5.0], spacing_p10=[0.7, 0.7, 2.5]))
    assert spacing == [0.8, 0.8, 2.5]
    assert "coarse axis Z" in reason


def test_ct_is_clipped_by_foreground_and_mr_is_z_scored(tmp_path: Path) -> None:
    dataset = replace(open_dataset_of(tmp_path), channels={0: "CT"})
    entries, _ = choose_normalization(dataset, fingerprint_of())
    assert entries == [{"kind": "ct", "lower": -100.0, "upper": 200.0, "mean": 40.0, "std": 20.0}]
    entries, _ = choose_normalization(replace(dataset, channels={0: "MRI"}), fingerprint_of())
    assert entries == [{"kind": "zscore"}]


def test_labels_that_tell_left_from_right_are_never_mirrored() -> None:
    assert choose_augmentation(["left kidney", "liver"], [1, 1, 1], gpu=True)[0]["mirror"] == 0.0
    assert choose_augmentation(["kidney_R"], [1, 1, 1], gpu=False)[0]["mirror"] == 0.0
    assert "mirror" not in choose_augmentation(["liver", "leftover"], [1, 1, 1], gpu=True)[0]
    assert choose_augmentation(["liver"], [1, 1, 3], gpu=True)[0]["spacing"] == [1, 1, 3]


def open_dataset_of(folder: Path) -> Dataset:
    for index in range(3):
        make_case(folder / "set", f"case_{index}")
    return open_dataset(folder / "set")


def test_a_plan_survives_its_file_and_every_choice_has_a_reason(tmp_path: Path) -> None:
    dataset = open_dataset_of(tmp_path)
    plan = make_plan(dataset, measure(dataset), make_splits(dataset.cases), Request(name="balls"))
    for key in ("spacing", "roi_size", "batch_size", "normalization", "optimization", "network", "splits"):
        assert plan.reasons[key], key
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


def test_a_broken_plan_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(BundleError, match=r"plan\.json: is not valid JSON"):
        Plan.read(tmp_path / "plan.json")
    with pytest.raises(BundleError, match="is missing"):
        Plan.read(tmp_path / "none.json")


@pytest.mark.parametrize("unit", [1e-9, 1e-5, 1e-2, 1.0, 1e3])
def test_ct_statistics_keep_their_digits_in_any_unit(unit: float) -> None:
    facts = {"p0_5": -18.84 * unit, "p99_5": 22.13 * unit, "mean": 2.051 * unit, "std": 3.1 * unit}
    dataset = SimpleNamespace(channels={0: "CT"})
    (entry,), _ = choose_normalization(dataset, SimpleNamespace(intensity=[facts]))  # type: ignore[arg-type]
    found = {"p0_5": entry["lower"], "p99_5": entry["upper"], "mean": entry["mean"], "std": entry["std"]}
    assert found == pytest.approx(facts, rel=1e-3)
