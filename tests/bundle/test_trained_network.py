"""After an override of the network, the bundle's files describe what was trained, and folds never mix two networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.cli.main import main
from medseg.errors import ConfigError
from medseg.layout import Layout
from medseg.planning.plan import Plan
from medseg.selection.averaging import finished_folds
from tests.bundle.samples import make_bundle

QUICK = ["max_epochs=1", "steps_per_epoch=1", "num_workers=0", "train::trainer::tracking=false"]


@pytest.fixture
def two_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An untrained bundle with two folds of its three cases."""
    monkeypatch.setenv("MEDSEG_STORE", str(tmp_path / "store"))
    splits = [{"train": ["case1", "case2"], "val": ["case0"]}, {"train": ["case0", "case2"], "val": ["case1"]}]
    bundle = make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data", folds=2, splits=splits)
    bundle.weights.unlink()
    return bundle


def test_fit_with_identity_just_works_up_to_predict_and_refuses_to_mix(
    two_folds: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(two_folds.folder)
    assert main(["fit", folder, *QUICK, "network_def::mixer=identity", "--quiet"]) == 0
    for path in (two_folds.train, two_folds.inference):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["network_def"]["mixer"] == "identity", path.name
    assert Plan.read(two_folds.plan).network["mixer"] == "identity"
    image = tmp_path / "data" / "images" / "case0.nii.gz"
    assert main(["predict", folder, "-i", str(image), "-o", str(tmp_path / "labels"), "--no-preview", "--quiet"]) == 0

    assert main(["fit", folder, *QUICK, "--fold", "1", "network_def::mixer=null", "--quiet"]) == 1
    message = capsys.readouterr().err
    assert "fold 0 was trained with another network_def" in message
    assert 'mixer: "identity" -> null' in message
    assert not two_folds.run_folder(1).exists()

    assert main(["fit", folder, *QUICK, "--fold", "1", "--quiet"]) == 0, (
        "the bundle's own network is the trained one now"
    )


class Killed(BaseException):
    """Stands for SIGKILL between two folds."""


def test_all_folds_trained_anew_and_killed_after_the_first_go_on_with_the_rest(
    two_folds: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folds had been trained before: their results are no results of the training that goes on."""

    def killed(*_: object) -> None:
        raise Killed

    for fold in (0, 1):
        two_folds.fold_weights(fold).parent.mkdir(parents=True)
        two_folds.fold_weights(fold).write_bytes(b"of before")
        two_folds.run_folder(fold).mkdir(parents=True)
        two_folds.run(fold).result.write_text("{}")
    words = ["fit", str(two_folds.folder), *QUICK, "--fold", "all", "network_def::mixer=identity", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("medseg.commands.fit.keep_definition", killed)
        with pytest.raises(Killed):
            main(words)
    assert finished_folds(two_folds) == [0]
    inference = json.loads(two_folds.inference.read_text(encoding="utf-8"))
    assert inference["network_def"]["mixer"] == "identity"
    assert main([*words, "--resume"]) == 0
    assert finished_folds(two_folds) == [0, 1]
    inference, train = (json.loads(path.read_text()) for path in (two_folds.inference, two_folds.train))
    assert [each["mixer"] for each in inference["network_def"]["networks"]] == ["identity", "identity"]
    assert train["network_def"]["mixer"] == Plan.read(two_folds.plan).network["mixer"] == "identity"
    assert two_folds.run_folder(1).with_name("fold_1.previous_1").is_dir()


def test_an_unchanged_network_changes_no_file(two_folds: Layout) -> None:
    before = {path: path.read_bytes() for path in two_folds.configs.iterdir()}
    assert main(["fit", str(two_folds.folder), *QUICK, "--quiet"]) == 0
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert set(changed) <= {"metadata.json", "evaluate.json"}, (
        "the figures of the training, and each fold's own network"
    )


def test_a_fold_without_a_run_folder_counts_as_trained_with_what_the_bundle_says(two_folds: Layout) -> None:
    from medseg.commands.fit_record import refuse_mixture

    weights = two_folds.fold_weights(1)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"any")
    config = json.loads(two_folds.train.read_text(encoding="utf-8"))
    refuse_mixture(two_folds.folder, config, [0, 1])
    config["preprocessing_def"]["orientation"] = "LPS"
    with pytest.raises(ConfigError, match="fold 1 was trained with another preprocessing_def"):
        refuse_mixture(two_folds.folder, config, [0, 1])
