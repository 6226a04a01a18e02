"""What a training leaves in MLflow: one run that resuming continues, artifacts, system metrics, clean names."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest

from medseg.commands.fit import fit_bundle
from medseg.io.file_names import same_file
from medseg.tracking.mlflow_logger import RunLogger, tracking_uri
from medseg.tracking.names import metric_name
from medseg.tracking.plan_record import plan_record
from medseg.tracking.run_record import read_run_id
from tests.bundle.samples import make_bundle


def test_a_training_leaves_its_artifacts_and_a_resumed_one_continues_the_run(tmp_path: Path) -> None:
    layout = make_bundle(
        tmp_path / "tiny_mr_unet", tmp_path / "data", labels={0: "background", 1: "liver (left)", 2: "a/b: c"}
    )
    fit_bundle(layout.folder, fold=0)
    client = mlflow.MlflowClient(f"sqlite:///{layout.runs}/mlflow.db")
    run_id = read_run_id(layout.run_folder(0))
    assert run_id
    kept = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"config.json", "manifest.json", "plan.json", "pictures", "report.html"} <= kept
    assert [entry.path for entry in client.list_artifacts(run_id, "pictures")] == ["pictures/curves.png"]
    page = Path(client.download_artifacts(run_id, "report.html", str(tmp_path))).read_bytes()
    assert page == layout.run(0).report.read_bytes()
    plan = json.loads(Path(client.download_artifacts(run_id, "plan.json", str(tmp_path))).read_text())
    assert plan["cases_per_fold"] == [{"train": 2, "val": 1}]
    assert str(tmp_path) not in json.dumps(plan)
    assert "case0" not in json.dumps(plan)
    metrics = set(client.get_run(run_id).data.metrics)
    assert {"val_dice/liver_left_9bbe7c", "val_dice/a_b_c_212e4b"} <= metrics

    fit_bundle(layout.folder, fold=0, resume=True, overrides={"max_epochs": 2})
    assert read_run_id(layout.run_folder(0)) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    with sqlite3.connect(layout.runs / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)


def test_system_metrics_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    logger = RunLogger(tmp_path, experiment="tiny", run_name="fold_0")
    logger.log_metrics({"loss": 1.0})
    assert logger.run_id  # the store is made by another thread, and MLflow's tables can't be made by two
    client = mlflow.MlflowClient(tracking_uri(tmp_path))
    end = time.monotonic() + 30
    found: set[str] = set()
    while not found and time.monotonic() < end:
        time.sleep(0.3)
        found = {key for key in client.get_run(logger.run_id).data.metrics if key.startswith("system/")}
    logger.finalize("success")
    assert any("memory" in key for key in found)
    assert any("cpu" in key for key in found)
    assert logger.monitor is None
    assert client.get_run(logger.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("liver (left)", "val_dice/liver_left_9bbe7c"),
        ("dice@0.5", "val_dice/dice_0.5_fa0473"),
        ("a:b/c", "val_dice/a_b_c_fb7456"),
        ("größe", "val_dice/größe"),
        ("left kidney", "val_dice/left kidney"),
    ],
)
def test_names_are_made_in_one_place(label: str, name: str) -> None:
    assert metric_name("val_dice", label) == name
    used = [
        path
        for path in (Path(__file__).parents[2] / "medseg").rglob("*.py")
        if "_FORBIDDEN" in path.read_text(encoding="utf-8") and "metric_name" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in used] == ["names.py"]


def test_labels_that_differ_have_metrics_that_differ_and_mlflow_takes_them() -> None:
    from mlflow.utils.validation import _validate_metric_name

    labels = ["T1+", "T1", "T1-", "left kidney", "left_kidney", " left kidney", "C1/C2", "C1 C2", "tumour (core)", "tumour core",
              "..", ".", "", "()", "a//b", "liver_left_9bbe7c", "liver (left)", "a\nb", "a\x85b", "x" * 240, "x" * 241]  # fmt: skip
    names = {metric_name("val_dice", label) for label in labels}
    assert len(names) == len(labels)
    for name in names:
        _validate_metric_name(name)


@pytest.mark.parametrize("labels", [["Tumour", "tumour", "TUMOUR"], ["größe", "gro\u0308ße"], ["Straße", "STRASSE"]])
def test_labels_that_differ_by_letter_case_have_metrics_that_no_store_takes_for_one(labels: list[str]) -> None:
    """SQL Server, MySQL and the disks of macOS and Windows know no letter case."""
    names = [metric_name("val_dice", label, among=labels) for label in labels]
    assert len({same_file(name) for name in names}) == len(labels)
    assert metric_name("val_dice", "Tumour", among=["Tumour", "liver"]) == "val_dice/Tumour"


def test_the_address_is_the_argument_then_the_environment_then_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:5000")
    assert tracking_uri(tmp_path) == "http://a:5000"
    assert tracking_uri(tmp_path, "http://b:5000") == "http://b:5000"


def test_records_hold_no_places_and_no_names(tmp_path: Path) -> None:
    content = {
        "name": "tiny",
        "data_folder": "/ward/MUSTERMANN",
        "splits": [{"train": ["MUSTERMANN_1", "b"], "val": ["c"]}],
        "warnings": ["MUSTERMANN_1: has no label 2"],
    }
    (tmp_path / "plan.json").write_text(json.dumps(content))
    record = plan_record(tmp_path / "plan.json")
    assert record == {"name": "tiny", "warnings": 1, "cases_per_fold": [{"train": 2, "val": 1}]}
