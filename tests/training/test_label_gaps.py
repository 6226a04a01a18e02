"""Label values with gaps: one output per label, in planning, training and prediction, and no value comes back as another."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.predictor import PredictOptions, make_segmenter
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.datasets import open_dataset
from medseg.errors import ConfigError, LabelError
from medseg.io.volume import read_image, read_label
from medseg.training.module import SegmentationModule
from medseg.training.prepare import preprocess_case
from medseg.transforms.classes import class_names, class_values, classes_of
from medseg.transforms.preprocessing import Preprocessing
from medseg.transforms.regions import labels_of_regions

QUICK = {"max_epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "val_interval": 1, "num_workers": 0}
SPINE = (*range(1, 8), 100, 201)


def make_parts(folder: Path, values: tuple[int, ...], *, kind: type = np.uint32, ignore: int | None = None) -> Path:
    """Three cases of a bright slab per label along the first axis."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(3):
        label = np.zeros((4 * len(values), 12, 12), kind)
        for place, value in enumerate(values):
            label[4 * place : 4 * place + 3, 2:9, 2:9] = value
        image = (label > 0) + np.random.default_rng(index).normal(0, 0.2, label.shape)
        if ignore is not None:
            label[:, -1] = ignore
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "images" / f"c{index}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "labels" / f"c{index}.nii.gz")
    labels: dict[str, object] = {"background": 0, **{f"part {value}": value for value in values}}
    labels |= {"ignore": ignore} if ignore is not None else {}
    facts = {"name": "parts", "labels": labels, "channels": {"0": "MRI"}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("values", [(255,), SPINE, (2035, 40_000, 70_000)])
def test_as_many_outputs_as_labels_are_trained_and_predicted(tmp_path: Path, values: tuple[int, ...]) -> None:
    data = make_parts(tmp_path / "data", values)
    plan = plan_bundle(data, tmp_path / "b", preset="resenc_unet")
    assert plan.network["out_channels"] == len(values) + 1
    metrics = fit_bundle(tmp_path / "b", overrides=QUICK)[0]
    assert sum(name.startswith("val_dice/") for name in metrics) == len(values)
    bundle = load_bundle(tmp_path / "b")
    assert bundle.label_values == [0, *values]
    segmenter = make_segmenter(bundle, PredictOptions(engine="eager"))
    volume = read_image([data / "images" / "c0.nii.gz"])
    label = segmenter.segment(segmenter.prepare(volume))
    assert set(np.unique(label)) <= {0, *values}
    assert label.dtype == np.min_scalar_type(max(values))
    steps = json.loads((tmp_path / "b" / "configs" / "evaluate.json").read_text())
    assert steps["key_metric"]["val_mean_dice"]["num_classes"] == len(values) + 1
    assert steps["postprocessing"]["transforms"][-1]["orig_labels"] == [0, *values]


@pytest.mark.parametrize(("values", "ignore"), [((255,), None), ((1, 40_000), 65_535), ((32_768, 70_000), 32_767)])
def test_what_is_stored_are_class_numbers_of_the_same_voxels(
    tmp_path: Path, values: tuple[int, ...], ignore: int | None
) -> None:
    dataset = open_dataset(make_parts(tmp_path / "data", values, ignore=ignore))
    build = preprocess_case(Preprocessing(None, [{"kind": "none"}]), dataset.labels, ignore_label=ignore)
    stored = build(dataset.cases[0]).label
    assert stored is not None
    assert dataset.cases[0].label is not None
    source = read_label(dataset.cases[0].label).array
    for number, value in enumerate((0, *values)):
        np.testing.assert_array_equal(stored == number, source == value)
    np.testing.assert_array_equal(stored == -1, source == (-5 if ignore is None else ignore))


def test_classes_are_the_declared_values_in_order() -> None:
    assert class_values([255]) == (0, 255)
    assert class_names({"0": "b", "201": "x", "100": "y"}) == {1: "y", 2: "x"}
    many = np.arange(300, dtype=np.uint16) * 3
    np.testing.assert_array_equal(classes_of(many, tuple(range(0, 900, 3))), np.arange(300))
    with pytest.raises(LabelError, match="4"):
        classes_of(np.array([0, 4]), (0, 255))


def test_regions_name_label_values_and_are_learnt_by_class_number() -> None:
    module = SegmentationModule(
        torch.nn.Identity(),
        {"0": "background", "100": "rim", "300": "core"},
        lambda image, network: network(image),
        regions=[
            {"name": "whole", "labels": [100, 300], "label": 100},
            {"name": "core", "labels": [300], "label": 300},
        ],
        loss="dice_bce",
    )
    assert module.regions == {"whole": [1, 2], "core": [2]}


@pytest.mark.parametrize("value", [255, 256, 300, 65_535, 65_536, 4_000_000_000])
def test_a_region_writes_its_label_whatever_its_size(value: int) -> None:
    assert labels_of_regions(torch.tensor([[2.0, -1.0]]), [value]).numpy().tolist() == [value, 0]


def test_a_network_of_another_number_of_outputs_is_refused_by_name(tmp_path: Path) -> None:
    plan_bundle(make_parts(tmp_path / "data", (255,)), tmp_path / "b", preset="resenc_unet")
    with pytest.raises(ConfigError, match=r"256 outputs, expected 2.*out_channels=2"):
        fit_bundle(tmp_path / "b", overrides={**QUICK, "network_def::out_channels": 256})
