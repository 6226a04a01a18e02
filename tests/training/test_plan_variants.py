"""The variants that planning chooses for odd data, end to end: slices (2D), and a low-resolution network first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.bundle.checks.verify import verify_bundle
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.io.volume import read_label
from medseg.planning.plan import Plan
from tests.volumes import make_case

QUICK = {"max_epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "val_interval": 1, "num_workers": 0}


def faults_of(bundle: Path) -> list[str]:
    return [fault for check in verify_bundle(bundle) for fault in check.faults]


@pytest.mark.slow
def test_thick_slices_are_planned_trained_and_predicted_one_by_one(tmp_path: Path) -> None:
    for index in range(3):
        # sagittal: the thick axis is the first of the file and must become the last of the network's grid
        make_case(tmp_path / "data", f"c{index}", shape=(6, 24, 20), spacing=(9.0, 1.0, 1.0), radius=5.0, seed=index)
    plan = plan_bundle(tmp_path / "data", tmp_path / "flat", preset="resenc_unet")
    assert (plan.spatial_dims, plan.orientation, len(plan.roi_size)) == (2, "ASR", 2)
    metrics = fit_bundle(tmp_path / "flat", overrides={**QUICK, "steps_per_epoch": 40})[0]
    assert metrics["val_dice"] > 0.5
    assert faults_of(tmp_path / "flat") == []
    scan = tmp_path / "data" / "images" / "c0.nii.gz"
    assert main(["predict", str(tmp_path / "flat"), str(scan), "-o", str(tmp_path / "labels"), "--quiet"]) == 0
    label = read_label(tmp_path / "labels" / "c0.nii.gz").array
    truth = read_label(tmp_path / "data" / "labels" / "c0.nii.gz").array
    assert label.shape == (6, 24, 20)
    assert 2 * np.sum((label == 1) & (truth == 1)) / (np.sum(label == 1) + np.sum(truth == 1)) > 0.5
    # MONAI's own run of the bundle sees slices too
    from monai.bundle import ConfigWorkflow

    (tmp_path / "one").mkdir()
    scan.rename(tmp_path / "one" / scan.name)
    workflow = ConfigWorkflow(
        config_file=str(tmp_path / "flat" / "configs" / "inference.json"),
        meta_file=str(tmp_path / "flat" / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(tmp_path / "flat"),
        dataset_dir=str(tmp_path / "one"),
        output_dir=str(tmp_path / "monai"),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    (other,) = (tmp_path / "monai").glob("*.nii.gz")
    assert (read_label(other).array == label).mean() > 0.999


@pytest.mark.slow
def test_two_stages_are_trained_in_order_and_give_predict_its_fast_way(tmp_path: Path) -> None:
    for index in range(3):
        make_case(tmp_path / "data", f"c{index}", shape=(24, 24, 24), radius=7.0, seed=index)
    bundle = tmp_path / "two"
    plan = plan_bundle(tmp_path / "data", bundle, preset="resenc_unet", stages=2)
    assert plan.low_resolution is not None
    assert not (bundle / "runs").exists()
    fit_bundle(bundle, overrides=QUICK)
    coarse = bundle / "runs" / "low_resolution"
    assert Plan.read(coarse / "plan.json").spacing == plan.low_resolution["spacing"]
    assert (coarse / "runs" / "fold_0" / "result.json").is_file()
    key = json.loads((bundle / "configs" / "inference.json").read_text())["low_resolution"]
    assert (bundle / key["checkpoint"]).is_file()
    assert faults_of(bundle) == []
    scan = str(tmp_path / "data" / "images" / "c0.nii.gz")
    assert main(["predict", str(bundle), scan, "-o", str(tmp_path / "labels"), "--fast", "--quiet"]) == 0
    trained = (coarse / "runs" / "fold_0" / "result.json").stat().st_mtime_ns
    fit_bundle(bundle, fold=1, overrides=QUICK)
    assert (coarse / "runs" / "fold_0" / "result.json").stat().st_mtime_ns == trained
