"""`medseg cv` writes what it learned into the bundle, `medseg predict` judges by it; another bundle's file is refused."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import write_state_dict
from medseg.commands.cv import cross_validate
from medseg.commands.cv_record import record_choice
from medseg.commands.pack import pack_bundle
from medseg.commands.predict import predict_bundle
from medseg.errors import BundleError
from medseg.evaluation.folders import pair_cases
from medseg.inference.settings import Execution, PredictOptions
from medseg.io.own_outputs import outputs_in
from medseg.io.volume import read_label
from medseg.layout import Layout
from medseg.selection.averaging import use_networks
from tests.bundle.samples import make_bundle

SPLITS = [{"train": ["case1", "case2"], "val": ["case0"]}, {"train": ["case0"], "val": ["case1", "case2"]}]
EAGER = PredictOptions(engine="eager")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net_a beside data/, cross-validated. Copy before changing."""
    place = tmp_path_factory.mktemp("trust")
    layout = make_bundle(place / "net_a", place / "data", name="net_a", splits=SPLITS, folds=2)
    for fold in (0, 1):
        torch.manual_seed(fold)
        write_state_dict(layout.fold_weights(fold), load_bundle(layout.folder).untrained_network().state_dict())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("medseg.bundle.predictor.Execution", functools.partial(Execution, engine="eager"))
        record_choice(cross_validate([place / "net_a"], device="cpu"))
    return place


@pytest.fixture
def bundle(learned: Path, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(learned / "net_a", tmp_path / "net_a")))


def images(layout: Layout) -> str:
    return str(Path(load_bundle(layout.folder).plan.data_folder) / "images")  # type: ignore[union-attr]


def test_predict_says_expected_dice_and_flag_and_labels_are_those_without(bundle: Layout, tmp_path: Path) -> None:
    facts = json.loads(bundle.trust.read_text())
    assert facts["cases"] == 3
    assert any("below 10" in note for note in facts["notes"])
    told = predict_bundle(bundle.folder, images(bundle), tmp_path / "with", options=EAGER, uncertainty=True)
    rows = json.loads((tmp_path / "with" / "case0.json").read_text())["labels"]
    assert all(row["flag"] in ("ok", "review") for row in rows)
    assert any("expected_dice" in row for row in rows)
    assert told.to_dict()["cases"][0]["measures"] == rows
    assert "expected_dice" in (tmp_path / "with" / "volumes.csv").read_text().splitlines()[0]
    assert "of 3 cases are flagged" in (tmp_path / "with" / "review.html").read_text()
    unsure = read_label(tmp_path / "with" / "case0_uncertainty.nii.gz").array
    assert unsure.dtype == np.uint8
    assert unsure.max() > 100
    bundle.trust.unlink()
    predict_bundle(bundle.folder, images(bundle), tmp_path / "without", options=EAGER)
    for name in ("case0", "case1", "case2"):
        first, second = (read_label(tmp_path / one / f"{name}.nii.gz").array for one in ("with", "without"))
        np.testing.assert_array_equal(first, second)
    assert "flag" not in json.loads((tmp_path / "without" / "case0.json").read_text())["labels"][0]


def test_a_map_of_uncertainty_is_no_case_of_evaluate_nor_of_the_next_run(bundle: Layout, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_bundle(bundle.folder, images(bundle), out, options=EAGER, uncertainty=True, preview=False)
    assert (out / "case0_uncertainty.nii.gz").is_file()
    assert {name for name, *_ in pair_cases(out, out.parent / "out", cases="common")[0]} == {"case0", "case1", "case2"}
    assert (out / "case0_uncertainty.nii.gz") in outputs_in(out)


def test_the_file_of_other_weights_is_refused_by_name(bundle: Layout, tmp_path: Path) -> None:
    facts = json.loads(bundle.trust.read_text())
    bundle.trust.write_text(json.dumps(facts | {"weights": ["0" * 64]}))
    with pytest.raises(BundleError, match=r"speaks of other weights than models/.*medseg cv"):
        predict_bundle(bundle.folder, images(bundle), tmp_path / "out", options=EAGER)
    bundle.trust.write_text(json.dumps(facts | {"temperature": "hot"}))
    with pytest.raises(BundleError, match="is no record of `medseg cv`"):
        predict_bundle(bundle.folder, images(bundle), tmp_path / "out", options=EAGER)


def test_new_weights_take_the_old_file_away(bundle: Layout) -> None:
    use_networks(bundle, ["models/fold_0/model.pt"], {}, listed=False)
    assert not bundle.trust.exists()


def test_a_packed_bundle_knows_its_safetensors(bundle: Layout, tmp_path: Path) -> None:
    config = json.loads(bundle.inference.read_text())
    shutil.copyfile(bundle.fold_weights(0), bundle.weights)
    config["models"] = None
    config["network_def"] = load_bundle(bundle.folder).own_network_def
    bundle.inference.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    packed = pack_bundle(bundle.folder, tmp_path / "net_a.zip")
    shutil.unpack_archive(packed.path, tmp_path / "there")
    assert Layout(tmp_path / "there" / "net_a").safetensors.is_file()
    out = tmp_path / "out"
    predict_bundle(tmp_path / "there" / "net_a", images(bundle), out, options=EAGER, preview=False)
    assert "flag" in json.loads((out / "case0.json").read_text())["labels"][0]
