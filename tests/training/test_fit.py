"""Training end to end on balls in noise: the loop runs, resumes bit for bit, and loses nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medseg.bundle.write import write_bundle
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle, resolve_config
from medseg.commands.plan import plan_bundle
from medseg.errors import BundleError, ConfigError, LabelError
from medseg.planning.plan import Plan
from tests.volumes import make_case

QUICK = {"max_epochs": 2, "steps_per_epoch": 2, "batch_size": 2, "val_interval": 2, "num_workers": 0}
QUICK_WORDS = [f"{key}={value}" for key, value in QUICK.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    for index in range(4):
        make_case(folder, f"ball_{index}", radius=4.0 + 0.5 * index, seed=index)
    return folder


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Path:
    plan_bundle(data, tmp_path / "balls", preset="resenc_unet")
    return tmp_path / "balls"


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(bundle / "models" / "fold_0" / "model.pt", weights_only=True)
    return state


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_fit_leaves_weights_record_and_curves(bundle: Path) -> None:
    metrics = fit_bundle(bundle, overrides=QUICK)[0]
    assert 0 <= metrics["val_dice"] <= 1
    run = bundle / "runs" / "fold_0"
    rows = json.loads((run / "metrics.json").read_text())
    assert [row["step"] for row in rows] == [2, 4]
    assert "val_dice" in rows[1]
    assert "val_dice/label_1" in rows[1] or any(key.startswith("val_dice/") for key in rows[1])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["training_cases"] == 3
    assert len(manifest["data_sha256"]) == 64
    assert json.loads((run / "config.json").read_text())["max_epochs"] == 2
    assert_equal_weights(weights(bundle), torch.load(bundle / "models" / "model.pt", weights_only=True))
    assert (bundle / "runs" / "mlflow.db").is_file()
    card = (bundle / "docs" / "README.md").read_text()
    assert f"| 0 | {metrics['val_dice']:.2f} |" in card
    assert "## Known failures" in card


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(bundle: Path) -> None:
    fit_bundle(bundle, overrides=QUICK)
    first = weights(bundle)
    fit_bundle(bundle, overrides=QUICK)
    assert_equal_weights(first, weights(bundle))
    fit_bundle(bundle, overrides={**QUICK, "seed": 1})
    assert any(not torch.equal(first[name], value) for name, value in weights(bundle).items())
    # "nothing lost": each earlier run was set aside
    assert sorted(path.name for path in (bundle / "runs").glob("fold_0*")) == [
        "fold_0", "fold_0.previous_1", "fold_0.previous_2",
    ]  # fmt: skip


@pytest.mark.slow  # a scenario of the endings is the quick form of it
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(bundle: Path) -> None:
    words = [*QUICK_WORDS, "max_epochs=4", "train::trainer::tracking=false"]
    command = [sys.executable, "-m", "medseg", "fit", str(bundle), *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ})
    checkpoint = bundle / "runs" / "fold_0" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert main(["fit", str(bundle), *words, "--resume", "--quiet"]) == 0
    resumed = weights(bundle)
    assert main(["fit", str(bundle), *words, "--quiet"]) == 0
    assert_equal_weights(resumed, weights(bundle))


def test_going_on_with_other_settings_is_told(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit_bundle(bundle, overrides=QUICK)
    (bundle / "runs" / "fold_0" / "result.json").unlink()
    with caplog.at_level(logging.WARNING):
        fit_bundle(bundle, overrides=QUICK, resume=True)
    assert "other settings" not in caplog.text
    (bundle / "runs" / "fold_0" / "result.json").unlink()
    fit_bundle(bundle, overrides={**QUICK, "max_epochs": 3}, resume=True)
    assert "fold_0 goes on with other settings than it was started with: max_epochs: 2 -> 3" in caplog.text
    assert "Creating" not in caplog.text  # MLflow's words on its database
    for key in ("preprocessing_def::spacing", "network_def::mixer"):
        (bundle / "runs" / "fold_0" / "result.json").unlink(missing_ok=True)
        value = [2.0, 2.0, 2.0] if key.endswith("spacing") else "identity"
        with pytest.raises(ConfigError, match=rf"fold_0 was started with other settings \({key}"):
            fit_bundle(bundle, overrides={**QUICK, "max_epochs": 3, key: value}, resume=True)


def test_a_finished_fold_is_not_trained_again_when_resuming(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit_bundle(bundle, overrides=QUICK)
    before = (bundle / "models" / "fold_0" / "model.pt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert fit_bundle(bundle, overrides=QUICK, resume=True) == {}
    assert "fold 0 is finished" in caplog.text
    assert (bundle / "models" / "fold_0" / "model.pt").stat().st_mtime_ns == before
    assert fit_bundle(bundle, overrides={**QUICK, "train::trainer::tracking": False}, resume=True, device="cpu") == {}
    for other in (
        {"steps_per_epoch": 5},
        {"train::module::learning_rate": 0.5},
        {"preprocessing_def::spacing": [2.0, 2.0, 2.0]},
    ):
        with pytest.raises(ConfigError, match="fold_0 is finished, and was trained with other settings"):
            fit_bundle(bundle, overrides={**QUICK, **other}, resume=True)
    assert (bundle / "models" / "fold_0" / "model.pt").stat().st_mtime_ns == before
    assert fit_bundle(bundle, overrides={**QUICK, "max_epochs": 3}, resume=True)[0]  # more of the same: it goes on
    assert json.loads((bundle / "runs" / "fold_0" / "config.json").read_text())["max_epochs"] == 3


def test_all_folds_are_trained_as_nested_runs_and_resumed(bundle: Path) -> None:
    overrides = {**QUICK, "max_epochs": 1, "val_interval": 1}
    results = fit_bundle(bundle, fold="all", overrides=overrides)
    assert sorted(results) == [0, 1, 2, 3]
    parent = json.loads((bundle / "runs" / "mlflow_run.json").read_text())["run_id"]
    with sqlite3.connect(bundle / "runs" / "mlflow.db") as database:
        children = database.execute(
            "select count(*) from tags where key = 'mlflow.parentRunId' and value = ?", [parent]
        )
        assert children.fetchone()[0] == 4
        means = dict(database.execute("select key, value from latest_metrics where run_uuid = ?", [parent]).fetchall())
    expected = sum(metrics["val_dice"] for metrics in results.values()) / 4
    assert means["mean_val_dice"] == pytest.approx(expected)
    assert fit_bundle(bundle, fold="all", overrides=overrides, resume=True) == {}


def test_any_mixer_is_swapped_for_identity_by_one_key(data: Path, tmp_path: Path) -> None:
    plan_bundle(data, tmp_path / "hybrid", preset="mambavision")
    overrides = {**QUICK, "network_def::mixer": "identity", "max_epochs": 1, "val_interval": 1}
    assert "val_dice" in fit_bundle(tmp_path / "hybrid", overrides=overrides)[0]


@pytest.mark.parametrize("preset", ["mambavision", "resenc_unet"])
def test_anisotropic_data_are_planned_with_strides_that_the_preset_builds(tmp_path: Path, preset: str) -> None:
    for index in range(3):
        make_case(tmp_path / "data", f"c{index}", shape=(40, 40, 12), spacing=(1.0, 1.0, 5.0), seed=index)
    plan = plan_bundle(tmp_path / "data", tmp_path / "flat", preset=preset)
    assert plan.network["strides"][1] == [2, 2, 1]
    assert "val_dice" in fit_bundle(tmp_path / "flat", overrides={**QUICK, "max_epochs": 1, "val_interval": 1})[0]


def test_weights_of_another_bundle_are_the_start_and_misfits_are_listed(
    bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit_bundle(bundle, overrides=QUICK)
    plan_bundle(data, tmp_path / "next", preset="resenc_unet")
    plan = Plan.read(tmp_path / "next" / "plan.json")
    plan.labels[2], plan.network["out_channels"] = "another ball", 3
    write_bundle(tmp_path / "next", plan)
    earlier = tmp_path / "next" / "runs" / "fold_0" / "metrics.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("[]")
    with pytest.raises(BundleError, match=r"'head.weight' is \(2, .*nothing was loaded.*--partial"):
        fit_bundle(tmp_path / "next", overrides=QUICK, init_from=bundle)
    assert earlier.is_file()  # an earlier run is not set aside for weights that do not fit
    with caplog.at_level(logging.INFO):
        fit_bundle(tmp_path / "next", overrides=QUICK, init_from=bundle, partial=["head", "coarse_heads"])
    assert "not loaded, as initialised" in caplog.text
    listed = json.loads((tmp_path / "next" / "runs" / "fold_0" / "initialization.json").read_text())
    own = weights(tmp_path / "next")
    assert sorted([*listed["loaded"], *listed["not_loaded"]]) == sorted(own)
    assert all(
        "[2" in why and "[3" in why for why in listed["not_loaded"].values()
    )  # the heads: two labels there, three here
    assert listed["unused"] == []


def test_a_budget_becomes_a_recorded_number_of_epochs(bundle: Path) -> None:
    fit_bundle(bundle, overrides={**QUICK, "max_epochs": 500}, budget_s=8.0)
    record = json.loads((bundle / "runs" / "fold_0" / "budget.json").read_text())
    manifest = json.loads((bundle / "runs" / "fold_0" / "manifest.json").read_text())
    assert 1 <= record["max_epochs"] < 500
    assert manifest["max_epochs"] == record["max_epochs"]


def test_a_misspelt_override_stops_before_anything_is_written(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(bundle), "max_epoch=3"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "max_epochs" in error
    assert not (bundle / "runs").exists()


def test_a_fold_that_does_not_exist_is_refused(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="fold 9 was asked for"):
        fit_bundle(bundle, fold=9)


def test_a_bundle_without_train_json_cannot_be_trained(bundle: Path) -> None:
    (bundle / "configs" / "train.json").unlink()
    with pytest.raises(BundleError, match="can predict, but not be trained"):
        resolve_config(bundle)


def test_a_bad_label_map_stops_training_with_its_name(bundle: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    for index in range(4):
        make_case(other, f"ball_{index}", seed=index, value=1 if index else 9)
    with pytest.raises(LabelError, match=r"ball_0.*undeclared label value 9"):
        fit_bundle(bundle, overrides={**QUICK, "dataset_dir": str(other)})


def test_planning_over_trained_weights_is_refused(bundle: Path, data: Path) -> None:
    fit_bundle(bundle, overrides={**QUICK, "max_epochs": 1})
    with pytest.raises(BundleError, match="holds trained weights already"):
        plan_bundle(data, bundle)
