"""Overlapping regions from dataset.json to a label map: planned, trained, predicted, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.bundle.checks.verify import verify_bundle
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.datasets import open_dataset
from medseg.errors import ConfigError, DataError
from medseg.planning.plan import Plan
from tests.volumes import ball

SHAPE = (16, 16, 16)
NNUNET = {"background": 0, "whole tumour": [1, 2], "core": 2}
REGIONS = [
    {"name": "whole tumour", "labels": [1, 2], "label": 1},
    {"name": "core", "labels": [2], "label": 2},
]
QUICK = {"max_epochs": 2, "steps_per_epoch": 25, "batch_size": 2, "val_interval": 2, "num_workers": 0}


def make_shells(folder: Path, *, labels: dict[str, object], channels: str = "channel_names") -> Path:
    """Four cases of a ball (brightness 1) with a core (brightness 3), in nnU-Net's layout."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(4):
        center = np.array([7.5, 7.5, 7.5]) + np.random.default_rng(index).uniform(-1, 1, 3)
        whole, core = ball(SHAPE, 6.0, center), ball(SHAPE, 3.5, center)
        noise = np.random.default_rng(10 + index).normal(0, 0.2, SHAPE)
        image = (whole.astype(float) + 2.0 * core + noise).astype(np.float32)
        label = (whole.astype(np.uint8) + core).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"case_{index}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"case_{index}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, channels: {"0": "MRI"}}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shells(tmp_path_factory.mktemp("shells"), labels=NNUNET)


@pytest.mark.slow
def test_regions_are_learnt_and_come_back_as_one_label_map(data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "shells"
    plan = plan_bundle(data, bundle, preset="resenc_unet")
    assert plan.optimization["loss"] == "dice_bce"
    assert plan.regions == REGIONS
    assert plan.network["out_channels"] == 2
    metrics = fit_bundle(bundle, overrides=QUICK)[0]
    assert metrics["val_dice/whole tumour"] > 0.6
    assert metrics["val_dice/core"] > 0.6
    assert [fault for check in verify_bundle(bundle) for fault in check.faults] == []
    output = tmp_path / "labels"
    scans = [str(path) for path in sorted((data / "imagesTr").glob("*.nii.gz"))]
    assert main(["predict", str(bundle), *scans, "-o", str(output), "--quiet"]) == 0
    for index in range(4):
        (output / f"case_{index}_0000.nii.gz").rename(output / f"case_{index}.nii.gz")
    words = ["--prediction", str(output), "--reference", str(data / "labelsTr"), "--region", "whole tumour=1,2"]
    assert main(["evaluate", *words, "--output", str(tmp_path / "scores"), "--quiet"]) == 0
    found = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert found["labels"]["whole tumour"] == [1, 2]
    assert found["summary"]["whole tumour"]["dice"]["mean"] > 0.6
    assert found["summary"]["2"]["dice"]["mean"] > 0.6


def test_regions_beside_plain_labels_of_any_layout(data: Path, tmp_path: Path) -> None:
    lines = [f"{data}/imagesTr/case_{i}_0000.nii.gz,{data}/labelsTr/case_{i}.nii.gz,case_{i}" for i in range(4)]
    (tmp_path / "cases.csv").write_text("\n".join(["image,label,name", *lines]))
    description = {"labels": {"0": "background", "1": "oedema", "2": "active"}, "channels": ["MRI"]}
    described = description | {"regions": {"whole tumour": [1, 2], "core": [2]}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    dataset = open_dataset(tmp_path)
    assert dataset.labels == {0: "background", 1: "oedema", 2: "active"}
    assert (dataset.regions, dataset.region_order) == ({"whole tumour": (1, 2), "core": (2,)}, (1, 2))
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    assert open_dataset(tmp_path).regions == {}


def test_regions_can_be_asked_for_on_the_command_line(data: Path, tmp_path: Path) -> None:
    words = ["plan", "--data", str(data), "--output", str(tmp_path / "b"), "--preset", "resenc_unet", "--quiet"]
    assert main([*words, "--region", "all of it=1,2", "--region", "core=2"]) == 0
    plan = Plan.read(tmp_path / "b" / "plan.json")
    assert [(region["name"], region["label"]) for region in plan.regions] == [("all of it", 1), ("core", 2)]
    assert "overlap" in plan.reasons["regions"]


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"background": 0, "a": [1, 2], "b": [2, 3]}, None, 'add "regions_class_order"'),
        (
            {"background": 0, "a": [1, 2], "b": 2},
            [1],
            "expected one label of each region, all different, .* a \\[1, 2\\]",
        ),
        ({"background": 0, "a": [1, 2], "b": 2}, [2, 1], "expected one label of each region"),
        ({"background": 0, "a": [1, "x"]}, None, "the region 'a' holds"),
    ],
)
def test_regions_that_do_not_fit_are_named(tmp_path: Path, labels, order, message) -> None:
    make_shells(tmp_path, labels=labels)
    if order:
        content = json.loads((tmp_path / "dataset.json").read_text())
        (tmp_path / "dataset.json").write_text(json.dumps(content | {"regions_class_order": order}))
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_a_label_in_no_region_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leave out the labels \[1\]"):
        plan_bundle(data, tmp_path / "b", preset="resenc_unet", regions={"core": [2]})


def test_a_loss_of_exclusive_labels_is_refused_for_regions(data: Path, tmp_path: Path) -> None:
    plan_bundle(data, tmp_path / "b", preset="resenc_unet")
    with pytest.raises(ConfigError, match="cannot learn overlapping regions; set train::module::loss=dice_bce"):
        fit_bundle(tmp_path / "b", overrides=QUICK | {"train::module::loss": "dice_ce"})
