"""A trained run becomes a shipped bundle: figures from the records, nothing of the machine, no case trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import ship_bundle
from medseg.bundle.checks.verify import verify_bundle
from medseg.evaluation import evaluate_folders
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

MANIFEST = {
    "training_cases": 2, "validation_cases": 1, "batch_size": 2, "max_epochs": 3, "steps_per_epoch": 5, "device": "cpu",
    "cpu_cores": 2, "precision": "32-true", "parameters": 2_500_000, "medseg": "0.1.0", "commit": "abc1234",
    "packages": {"torch": "2.13.0"}, "date": "2026-11-21T07:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A bundle with the records that `medseg fit` leaves, and a place to ship it to."""
    layout = make_bundle(tmp_path / "run" / "tiny_mr_unet", tmp_path / "data")
    for path, content in (("manifest.json", MANIFEST), ("result.json", {"seconds": 90.0, "steps": 15})):
        layout.run_folder(0).mkdir(parents=True, exist_ok=True)
        (layout.run_folder(0) / path).write_text(json.dumps(content))
    layout.fold_weights(0).parent.mkdir()
    shutil.copyfile(layout.weights, layout.fold_weights(0))
    monkeypatch.setattr(ship_bundle, "BUNDLES", tmp_path / "bundles")
    return layout


def scored(folder: Path, data: Path, *names: str) -> Path:
    """evaluation.json of perfect predictions of the named cases."""
    for name in names:
        (folder / "labels").mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "labels" / f"{name}.nii.gz", folder / "labels")
    labels = {1: "anterior", 2: "posterior"}
    evaluation = evaluate_folders(folder / "labels", data / "labels", labels=labels, cases="predicted")
    evaluation.to_json(folder / "evaluation.json")
    return folder / "evaluation.json"


def test_a_run_is_shipped_with_its_own_figures(run: Layout, tmp_path: Path) -> None:
    evaluation = scored(tmp_path / "eval", tmp_path / "data", "case0")
    words = [str(run.folder), "tiny_mr_shipped", "--evaluation", str(evaluation), "--data", "hippocampus"]
    assert ship_bundle.main(words) == 0
    layout = Layout(tmp_path / "bundles" / "tiny_mr_shipped")
    assert [fault for check in verify_bundle(layout.folder) for fault in check.faults] == []
    card = layout.readme.read_text()
    assert "| anterior | 1.00 | not computed | 1 |" in card
    assert "Fold 0 alone: 2 cases, 15 steps of 2 crops (3 epochs of 5), adamw, 1.5 minutes on cpu" in card
    assert "1 validation cases" in card
    assert "1.000 (case0)" in card
    metadata = json.loads(layout.metadata.read_text())
    assert metadata["name"] == "tiny_mr_shipped"
    assert metadata["eval_metrics"]["dice_fold0_mean_over_labels"] == 1.0
    assert "CC BY-SA 4.0" in layout.license.read_text()
    texts = [path.read_text() for path in layout.folder.rglob("*") if path.is_file() and path != layout.weights]
    assert not [text for text in texts if str(tmp_path) in text]
    assert not layout.runs.exists()

    assert ship_bundle.main([*words, "--version", "0.2.0", "--change", "again"]) == 0
    assert json.loads(layout.metadata.read_text())["changelog"] == {"0.1.0": "first weights, fold 0", "0.2.0": "again"}


def test_cases_that_were_trained_on_are_refused(
    run: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = scored(tmp_path / "eval", tmp_path / "data", "case0", "case1")
    words = [str(run.folder), "tiny", "--evaluation", str(evaluation), "--data", "hippocampus"]
    assert ship_bundle.main(words) == 1
    assert "case1 and 0 more were trained on" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()


def test_an_edited_configuration_is_refused(run: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = scored(tmp_path / "eval", tmp_path / "data", "case0")
    config = json.loads(run.inference.read_text())
    config["inferer"]["overlap"] = 0.25
    run.inference.write_text(json.dumps(config))
    words = [str(run.folder), "tiny", "--evaluation", str(evaluation), "--data", "hippocampus"]
    assert ship_bundle.main(words) == 1
    assert "inferer::overlap differs from what plan.json gives" in capsys.readouterr().err


def test_an_unfinished_fold_is_refused(run: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = scored(tmp_path / "eval", tmp_path / "data", "case0")
    (run.run_folder(0) / "result.json").unlink()
    words = [str(run.folder), "tiny", "--evaluation", str(evaluation), "--data", "hippocampus"]
    assert ship_bundle.main(words) == 1
    assert "is not finished" in capsys.readouterr().err
