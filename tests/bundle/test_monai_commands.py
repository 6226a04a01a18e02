"""`python -m monai.bundle` and torchrun as a user types them: training, tracking, two processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medseg.bundle.weights import read_state_dict
from medseg.layout import Layout
from tests.bundle.samples import make_bundle, make_dataset

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def trainable(tmp_path: Path) -> Layout:
    """A bundle whose dataset lies beside it, with two training cases."""
    return make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, env=environment, check=False)


def train_workflow(layout: Layout, **overrides: object) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(layout.train),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(layout.folder),
        **overrides,
    )


def test_run_trains_with_lightning(trainable: Layout) -> None:
    before = read_state_dict(trainable.weights)
    flow = train_workflow(trainable)
    flow.initialize()
    flow.run()
    flow.finalize()
    after = read_state_dict(trainable.weights)
    assert set(after) == set(before)
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert trainable.last_checkpoint(0).is_file()
    assert trainable.fold_weights(0).is_file()


def test_tracking_mlflow_adds_its_handler_and_still_trains(trainable: Layout, tmp_path: Path) -> None:
    """MONAI's `--tracking mlflow` edits the configuration: the address it gives is where Lightning then logs."""
    store = f"sqlite:///{tmp_path}/runs.db"
    settings = {
        "handlers_id": {"trainer": {"id": "train#trainer", "handlers": "train#handlers"}},
        "configs": {
            "output_dir": "$@bundle_root + '/eval'",
            "tracking_uri": store,
            "experiment_name": "tiny",
            "run_name": None,
            "save_execute_config": True,
            "trainer": {"_target_": "MLFlowHandler", "tracking_uri": "@tracking_uri", "tag_name": "train_loss"},
        },
    }
    flow = train_workflow(trainable, tracking=settings)
    flow.initialize()
    flow.run()
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        logged = {row[0] for row in connection.execute("select distinct key from metrics")}
    assert any("loss" in name for name in logged)


def test_commands_run_from_any_folder(trainable: Layout, tmp_path: Path) -> None:
    """bundle_root is found from --config_file, so nobody has to change into the bundle first."""
    result = command(
        sys.executable, "-m", "monai.bundle", "run", "--config_file", str(trainable.inference), folder=tmp_path
    )
    assert result.returncode == 0, result.stderr[-2000:]
    labels = sorted((trainable.folder / "eval").glob("*_seg.nii.gz"))
    assert len(labels) == 3
    assert not (tmp_path / "eval").exists()
    assert set(np.unique(np.asarray(nibabel.load(labels[0]).dataobj))) <= {0, 1, 2}


@pytest.mark.slow
def test_two_processes_train_one_network(trainable: Layout, tmp_path: Path) -> None:
    """torchrun with two gloo processes, the way MONAI Label and the zoo start multi_gpu_train.json."""
    make_dataset(tmp_path / "data", count=5)
    splits = [{"train": ["case1", "case2", "case3", "case4"], "val": ["case0"]}]
    trainable.splits.write_text(json.dumps(splits))
    files = f"['{trainable.train}','{trainable.multi_gpu_train}']"
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run")
    result = command(sys.executable, *words, "--config_file", files, folder=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert trainable.fold_weights(0).is_file()
    assert "MEMBER: 2/2" in result.stderr or json.loads((trainable.run_folder(0) / "manifest.json").read_text())
