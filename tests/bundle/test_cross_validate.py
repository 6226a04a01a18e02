"""`medseg cv` on tiny bundles: what it writes is what predict and MONAI then do."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medseg.bundle.checks.verify import verify_bundle
from medseg.bundle.load import load_bundle
from medseg.bundle.predictor import make_fold_predictor
from medseg.bundle.weights import write_state_dict
from medseg.cli.main import main
from medseg.commands.cv import cross_validate, practice_card
from medseg.commands.cv_record import mean_metrics, record_choice, write_cv_report
from medseg.commands.predict import predict_bundle
from medseg.errors import BundleError
from medseg.inference.settings import Execution, PredictOptions
from medseg.layout import Layout
from tests.bundle.samples import make_bundle

SPLITS = [{"train": ["case1", "case2"], "val": ["case0"]}, {"train": ["case0"], "val": ["case1", "case2"]}]


def _train(layout: Layout, seed: int) -> None:
    """Two folds with weights of different seeds: untrained networks do for plumbing."""
    for fold in (0, 1):
        torch.manual_seed(seed + fold)
        write_state_dict(layout.fold_weights(fold), load_bundle(layout.folder).untrained_network().state_dict())


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other engines take seconds to prepare, for three tiny cases."""
    monkeypatch.setattr("medseg.bundle.predictor.Execution", functools.partial(Execution, engine="eager"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles on one dataset: a/ and b/, beside data/. Copy before changing."""
    place = tmp_path_factory.mktemp("cv")
    for name, seed in (("net_a", 1), ("net_b", 5)):
        layout = make_bundle(place / name, place / "data", name=name, splits=SPLITS, folds=2)
        _train(layout, seed)
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    for name in ("net_a", "net_b"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def _segment_with_monai(layout: Layout, output: Path) -> dict[str, np.ndarray]:
    flow = ConfigWorkflow(
        config_file=str(layout.inference),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(layout.folder),
        output_dir=str(output),
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    return {path.name[:5]: np.asarray(nibabel.load(path).dataobj) for path in output.glob("*.nii.gz")}


def test_folds_are_averaged_alike_by_the_verb_and_by_monai(place: Path) -> None:
    result = cross_validate([place / "net_a"], device="cpu")
    assert {name for name, _, _ in result.pairs["net_a"]} == {"case0", "case1", "case2"}
    result.selection.steps = [{"kind": "largest_component", "labels": [1]}]  # whatever untrained networks justify
    layout = record_choice(result)
    opened = load_bundle(layout.folder)
    assert [path.parent.name for path in opened.weight_files] == ["fold_0", "fold_1"]
    assert list(opened.label_settings.postprocessing) == result.selection.steps
    data = Path(opened.plan.data_folder)  # type: ignore[union-attr]
    predict_bundle(
        layout.folder, str(data / "images"), place / "verb", options=PredictOptions(engine="eager"), preview=False
    )
    by_monai = _segment_with_monai(layout, place / "monai")
    for name, label in by_monai.items():
        by_verb = np.asarray(nibabel.load(place / "verb" / f"{name}.nii.gz").dataobj)
        assert np.mean(label == by_verb) >= 0.9999
    metadata = json.loads(layout.metadata.read_text())
    assert 0 <= metadata["eval_metrics"]["mean_dice_anterior"] <= 1
    facts = json.loads((layout.folder / "docs" / "cross_validation.json").read_text())
    assert facts["chosen"] == "net_a"
    assert [check for check in verify_bundle(layout.folder) if check.faults] == []


def test_labels_that_differ_by_a_sign_do_not_share_a_score() -> None:
    means = {"left kidney": 0.9, "left_kidney": 0.5, "T 1": 0.7, "T1": 0.6}
    found = mean_metrics(means)
    assert sorted(found.values()) == sorted(means.values())
    assert (found["mean_dice_left_kidney"], found["mean_dice_left kidney"], found["mean_dice_T_1"]) == (0.5, 0.9, 0.7)


def test_two_bundles_and_their_ensemble_are_compared(place: Path) -> None:
    result = cross_validate([place / "net_a", place / "net_b"], device="cpu")
    assert list(result.evaluations) == ["net_a", "net_b", "net_a+net_b"]
    assert len(result.comparisons) == 3 * 3  # three pairs, two labels and their mean
    result.chosen = "net_a+net_b"
    result.selection.steps = []
    layout = record_choice(result)
    opened = load_bundle(layout.folder)
    assert opened.folder == place / "net_a"
    networks = opened.networks()
    assert len(networks) == 4
    first = load_bundle(place / "net_b").layout.fold_weights(0)
    expected = torch.load(first, weights_only=True)
    name, tensor = next(iter(networks[2].state_dict().items()))
    assert torch.equal(tensor, expected[name])
    assert practice_card(result).ensemble == "folds 0, 1 of net_a and net_b"
    page = write_cv_report(result, place / "report.html", shown=1).read_text()
    assert "net_a - net_b" in page
    assert "2 of 2 folds trained over 3 cases" in page


def test_choosing_again_replaces_the_earlier_choice(place: Path) -> None:
    result = cross_validate([place / "net_a"], device="cpu")
    result.selection.steps = [{"kind": "fill_holes", "labels": [2]}]
    record_choice(result)
    first = (place / "net_a" / "configs" / "inference.json").read_text()
    record_choice(result)
    assert (place / "net_a" / "configs" / "inference.json").read_text() == first
    result.selection.steps = []
    config = json.loads(record_choice(result).inference.read_text())
    assert len(config["postprocessing"]["transforms"]) == 2


def test_one_trained_fold_is_used_alone(place: Path) -> None:
    shutil.rmtree(place / "net_a" / "models" / "fold_1")
    result = cross_validate([place / "net_a"], device="cpu")
    assert [case.name for case in result.final.cases] == ["case0"]
    config = json.loads(record_choice(result).inference.read_text())
    assert config["models"] == ["models/fold_0/model.pt"]
    assert [handler["_target_"] for handler in config["handlers"]] == ["CheckpointLoader"]
    rows = {name: text for name, _, text in practice_card(result).rows()}
    assert rows["Cross-validation"] == "1 of 2 folds trained over 1 cases"


def _chosen_dice(folder: Path) -> dict[str, dict[str, float]]:
    """label -> Dice of the chosen candidate, as docs/cross_validation.json has it."""
    record = json.loads((folder / "docs" / "cross_validation.json").read_text())
    return {label: row["dice"] for label, row in record["evaluation"]["summary"].items()}


def test_verb_and_its_refusals(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = place / "report.html"
    words = ["cv", str(place / "net_a"), "--dry-run", "--device", "cpu", "--output", str(report)]
    assert main(words) == 0
    screen = capsys.readouterr().out
    assert "chosen: net_a" in screen
    page = re.sub(r"<svg.*?</svg>|data:[^\"]*", "", report.read_text(), flags=re.DOTALL)
    cells = set(re.findall(r">([-+]?[\d.]+ \([-+\d.]+ to [-+\d.]+\))</td>", page))
    assert len(cells) >= 3
    assert [cell for cell in cells if cell not in screen] == []
    assert "models" not in json.loads((place / "net_a" / "configs" / "inference.json").read_text())
    assert main(["cv", str(place / "net_a"), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == "net_a"
    assert (place / "net_a" / "docs" / "cross_validation.html").is_file()
    card = (place / "net_a" / "docs" / "README.md").read_text()
    assert "Cross-validation of net_a, folds 0, 1: Dice on the scans' own grids" in card
    dice = _chosen_dice(place / "net_a")
    for label, row in dice.items():
        assert f"| {label} | {row['mean']:.2f} | {row['low']:.2f} to {row['high']:.2f} | {row['count']} |" in card
    shutil.rmtree(place / "net_b" / "models")
    with pytest.raises(BundleError, match="no fold is trained"):
        cross_validate([place / "net_b"])
    with pytest.raises(BundleError, match="one name"):
        cross_validate([place / "net_a", place / "net_a"])


def test_an_ensemble_of_two_windows_predicts_what_was_scored(place: Path) -> None:
    for file in ("inference.json", "evaluate.json"):
        path = place / "net_b" / "configs" / file
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "roi_size": [48, 48, 48]}))
    result = cross_validate([place / "net_a", place / "net_b"], device="cpu")
    result.chosen, result.selection.steps = "net_b+net_a", []
    layout = record_choice(result)
    shutil.rmtree(layout.fold_weights(1).parent)  # what scored case0 is fold 0 of both: ship exactly that
    config = json.loads(layout.inference.read_text())
    models = [name for name in config["models"] if "fold_0" in name]
    layout.inference.write_text(json.dumps({**config, "models": models}))
    data = Path(load_bundle(layout.folder).plan.data_folder)  # type: ignore[union-attr]
    image = str(data / "images" / "case0.nii.gz")
    predict_bundle(layout.folder, image, place / "verb", options=PredictOptions(engine="eager"), preview=False)
    scored = {name: path for name, path, _ in result.pairs["net_b+net_a"]}["case0"]
    shipped = np.asarray(nibabel.load(place / "verb" / "case0.nii.gz").dataobj)
    np.testing.assert_array_equal(shipped, np.asarray(nibabel.load(scored).dataobj))


def test_bundles_on_two_grids_are_named_and_not_averaged(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = place / "net_b" / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["preprocessing_def"]["spacing"] = [1.5, 1.5, 1.5]
    path.write_text(json.dumps(config))
    result = cross_validate([place / "net_a", place / "net_b"], device="cpu")
    assert list(result.evaluations) == ["net_a", "net_b"]
    reason = "preprocessing::spacing [1.0, 1.0, 1.5] of net_a is [1.5, 1.5, 1.5] in net_b"
    assert result.as_dict()["not_tried"] == {"net_a+net_b": reason}
    assert reason in caplog.text
    group = load_bundle(place / "net_a"), load_bundle(place / "net_b")
    with pytest.raises(BundleError, match="cannot be averaged"):
        make_fold_predictor(group, 0, "cpu")
