"""What a run leaves and says is what ran: files in runs/fold_N, the budget's length, what MLflow compares, SLURM's variables."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.main import main
from medseg.layout import Layout
from tests.volumes import make_case

SHORT = ["batch_size=1", "num_workers=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A bundle after a training with MLflow, under the variables of a job of two tasks and with a length of its own."""
    place = tmp_path_factory.mktemp("run_files")
    for index in range(3):
        make_case(place / "data", f"ball_{index}", radius=4.0 + index / 3, seed=index)
    bundle = str(place / "balls")
    wanted = ["--preset", "resenc_unet", "--folds", "3", "--quiet"]
    assert main(["plan", "--data", str(place / "data"), "--output", bundle, *wanted]) == 0
    variables = {
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "fit",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow leaves it in the process of an earlier test
        for name, value in variables.items():
            patch.setenv(name, value)
        assert main(["fit", bundle, "--fold", "1", "--quiet", *SHORT, "max_epochs=2", "steps_per_epoch=2"]) == 0
    return Layout(Path(bundle))


def test_the_run_folder_holds_curves_page_and_log(trained: Layout) -> None:
    run = trained.run(1)
    assert run.progress.read_bytes().startswith(b"\x89PNG")
    page = run.report.read_text()
    assert "default-src &#39;none&#39;" in page  # the page of every report
    assert page.count("<svg") >= 2
    assert "val_dice" in page
    lines = run.log.read_text().splitlines()
    assert [line.split(", ")[0].split(" ", 2)[2] for line in lines if " epoch " in line] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
    ]
    assert any("fold 1: 4 steps in" in line for line in lines)
    assert len(json.loads(run.metrics.read_text())) == 2


def test_config_json_says_the_length_that_a_budget_made(trained: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "fit",
        str(trained.folder),
        "--fold",
        "0",
        "--budget",
        "4s",
        "--quiet",
        *SHORT,
        "train::trainer::tracking=false",
    ]
    assert main([*words, "max_epochs=40", "steps_per_epoch=100000"]) == 0
    run = trained.run(0)
    config, result = (json.loads(path.read_text()) for path in (run.config, run.result))
    assert config["max_epochs"] * config["steps_per_epoch"] >= result["steps"] >= 1
    assert config["steps_per_epoch"] < 100_000
    assert (config["max_epochs"], config["steps_per_epoch"]) == tuple(
        json.loads(run.manifest.read_text())[key] for key in ("max_epochs", "steps_per_epoch")
    )
    run.result.unlink()
    capsys.readouterr()
    assert main([*words, "max_epochs=40", "steps_per_epoch=100000", "--resume"]) == 0
    assert "other settings" not in capsys.readouterr().err


def test_mlflow_can_compare_runs_and_opens_on_them(trained: Layout) -> None:
    def rows(query: str) -> dict[str, Any]:
        with sqlite3.connect(next(trained.runs.glob("*.db"))) as connection:
            return dict(connection.execute(query).fetchall())

    parameters = rows("select key, value from params")
    assert parameters["preset"] == "resenc_unet"
    assert parameters["fold"] == "1"
    assert json.loads(parameters["spacing"]) == [1.0, 1.0, 1.0]
    wanted = {"size", "mixer", "loss", "optimizer", "learning_rate", "roi_size", "batch", "augmentation"}
    assert wanted <= parameters.keys()
    metrics = rows("select key, max(value) from metrics group by key")
    assert {
        "learning_rate",
        "step_seconds",
        "data_wait_seconds",
        "memory_gb",
        "val_dice",
        "train_loss",
    } <= metrics.keys()
    assert len([name for name in metrics if name.startswith("val_dice")]) == 2  # the mean, and that of the one label
    assert metrics["step_seconds"] > 0
    assert rows("select key, value from experiment_tags")["mlflow.experimentKind"] == "custom_model_development"
