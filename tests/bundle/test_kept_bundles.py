"""Bundles that version 0.1 wrote go on: their files name modules that have moved since (kept/ holds the files, as shipped)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.load import load_bundle
from medseg.commands.fit import fit_bundle
from medseg.commands.predict import predict_bundle
from medseg.inference.settings import PredictOptions
from medseg.layout import Layout
from tests.bundle.samples import make_bundle, make_dataset
from tests.bundle.shipped import shipped

KEPT = Path(__file__).with_name("kept")
SHAPE = (30, 38, 26)  # one window: this is about parts being found, not about blending
OLD_NAMES = {
    "medseg.components.find_bundle_root": "medseg.bundle.layout.find_bundle_root",
    "medseg.components.choose_device": "medseg.config.choose_device",
    "medseg.components.build_network": "medseg.networks.build_network",
    "medseg.components.SlidingWindowInferer": "medseg.inference.SlidingWindowInferer",
    "medseg.components.Preprocessing": "medseg.transforms.preprocessing.Preprocessing",
    "medseg.components.Training": "medseg.training.datamodule.Training",
    "medseg.components.Validation": "medseg.training.datamodule.Validation",
    "medseg.components.SegmentationData": "medseg.training.datamodule.SegmentationData",
    "medseg.components.SegmentationModule": "medseg.training.module.SegmentationModule",
    "medseg.components.make_trainer": "medseg.training.trainer.make_trainer",
    "medseg.components.run_fit": "medseg.training.fit.run_fit",
    "medseg.components.seed_all": "medseg.tracking.determinism.seed_all",
}


QUICK = {"brain_mr_demo", "hippocampus_mr_mambavision"}
CASES = [
    pytest.param(layout, id=layout.folder.name, marks=[] if layout.folder.name in QUICK else pytest.mark.slow)
    for layout in shipped()
]


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Layout, Layout]:
    """A shipped bundle, and the same one with the files of 0.1."""
    today: Layout = request.param
    old = Layout(Path(shutil.copytree(today.folder, tmp_path / today.folder.name)))
    for path in (KEPT / today.folder.name).iterdir():
        shutil.copyfile(path, old.configs / path.name)
    assert "medseg.bundle.layout.find_bundle_root" in old.inference.read_text()
    assert "medseg.components" not in old.inference.read_text()
    return today, old


def test_predict_and_verify_and_monai_run_it_as_today(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    today, old = pair
    assert [fault for check in verify_bundle(old.folder) for fault in check.faults] == []
    make_dataset(tmp_path / "data", count=1, shape=SHAPE)
    images = tmp_path / "data" / "images"
    for name, layout in (("today", today), ("old", old)):
        options = PredictOptions(engine="eager")
        predict_bundle(layout.folder, [str(images)], tmp_path / name, options=options, preview=False)
    flow = monai.bundle.ConfigWorkflow(
        config_file=str(old.inference), workflow_type="infer", logging_file=False, bundle_root=str(old.folder),
        dataset_dir=str(images), output_dir=str(tmp_path / "monai"),
    )  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()
    found = [
        tmp_path / "today" / "case0.nii.gz",
        tmp_path / "old" / "case0.nii.gz",
        tmp_path / "monai" / "case0_seg.nii.gz",
    ]
    labels, same, run = (np.asarray(nibabel.load(path).dataobj) for path in found)
    np.testing.assert_array_equal(labels, same)
    assert np.mean(labels == run) >= 0.9999


def test_monais_commands_find_its_parts(pair: tuple[Layout, Layout], tmp_path: Path) -> None:
    _, old = pair
    files = {"meta_file": str(old.metadata), "config_file": str(old.inference)}
    monai.bundle.verify_net_in_out("network_def", **files)
    target = tmp_path / "model.ts"
    monai.bundle.ckpt_export("network_def", filepath=str(target), ckpt_file=str(old.weights), **files)
    opened = load_bundle(old.folder)
    image = torch.rand(1, len(opened.channels), *opened.roi_size)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(target))(image), opened.network()(image), atol=1e-4, rtol=1e-4)


def test_a_training_of_0_1_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its files and the record of its run name old modules; the same settings under old names are no change."""
    layout = make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")
    fit_bundle(layout.folder, overrides={"max_epochs": 1})
    for path in (layout.train, layout.inference, layout.run(0).config):
        text = path.read_text()
        for new, old in OLD_NAMES.items():
            text = text.replace(f'"{new}', f'"{old}')
        assert "medseg.components.find" not in text
        path.write_text(text)
    layout.run(0).result.unlink()
    with caplog.at_level(logging.WARNING):
        fit_bundle(layout.folder, overrides={"max_epochs": 2}, resume=True)
    told = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert told == ["fold_0 goes on with other settings than it was started with: max_epochs: 1 -> 2"]
    assert json.loads(layout.run(0).result.read_text())["steps"] == 2
