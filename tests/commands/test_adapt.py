"""`medseg adapt`: another model's weights on new data, and ten planted faults that are refused or reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.cli.main import main
from medseg.commands.adapt import Wish, adapt_bundle
from medseg.commands.adapt_facts import case_list, list_hash
from medseg.commands.fit import fit_bundle
from medseg.commands.import_nnunet import import_nnunet
from medseg.commands.predict import PredictOptions, predict_bundle
from medseg.datasets import open_dataset
from medseg.errors import BundleError, ConfigError
from medseg.io.volume import read_label
from medseg.layout import Layout
from tests.commands.adapt_samples import data_set, source_bundle
from tests.commands.test_import_nnunet import trained_folder

QUIET = ["max_epochs=1", "steps_per_epoch=1", "train::trainer::tracking=false", "num_workers=0", "--quiet"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that knows one of the two classes."""
    folder = tmp_path_factory.mktemp("base")
    return source_bundle(folder / "base", data_set(folder / "one", {"1": "anterior"}))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with both classes, the old one at another value."""
    return data_set(tmp_path_factory.mktemp("both") / "two", {"1": "Posterior", "2": "Anterior"}, seed=1)


def damaged(base: Path, folder: Path, change) -> Path:
    """A copy of a source whose state dict was changed."""
    shutil.copytree(base, folder)
    state = torch.load(Layout(folder).weights, weights_only=True)
    torch.save(change(state), Layout(folder).weights)
    return folder


def pretrained(base: Path, folder: Path, seen: Path, **facts: object) -> Path:
    """A copy of a source that says it was pretrained on these cases."""
    copy = damaged(base, folder, dict)
    cases = case_list(open_dataset(seen).cases)
    record = {"task": "volume_fusion", "cases": cases, "cases_sha256": list_hash(cases), "steps": 100, **facts}
    Layout(copy).pretraining.write_text(json.dumps(record))
    return copy


def test_what_is_taken_over_is_in_the_plan_and_every_training_begins_with_the_weights(
    base: Path, both: Path, tmp_path: Path
) -> None:
    found = adapt_bundle(base, both, tmp_path / "new", Wish(twin=True))
    old, new = load_bundle(base).plan, load_bundle(tmp_path / "new").plan
    assert (new.spacing, new.normalization, new.roi_size) == (old.spacing, old.normalization, old.roi_size)
    assert new.network["preset"] == "resenc_unet"
    assert found.classes == {"background": "background", "Posterior": None, "Anterior": "anterior"}
    assert main(["fit", str(tmp_path / "new"), *QUIET]) == 0
    record = json.loads(Layout(tmp_path / "new").run(0).initialization.read_text())
    assert not record["not_loaded"]
    twin = json.loads(Layout(tmp_path / "new_scratch").train.read_text())
    train = json.loads(Layout(tmp_path / "new").train.read_text())
    rates = twin["train"]["module"].pop("learning_rate"), train["train"]["module"].pop("learning_rate")
    assert rates[1] == rates[0] / 4
    own = ("bundle_root", "train")
    assert {k: v for k, v in twin.items() if k not in own} == {k: v for k, v in train.items() if k not in own}
    assert not Layout(tmp_path / "new_scratch").start.exists()


def test_an_adapted_nnunet_gives_its_own_labels_before_any_step_and_can_be_trained(tmp_path: Path) -> None:
    source = trained_folder(tmp_path)
    data = data_set(tmp_path / "ct", {"1": "cyst", "2": "liver"}, channels=("CT",))
    import_nnunet(source, tmp_path / "imported")
    adapt_bundle(source, data, tmp_path / "adapted", Wish())
    maps = []
    for name in ("imported", "adapted"):
        options = PredictOptions(mirror=(), engine="eager")
        predict_bundle(tmp_path / name, data / "imagesTr", tmp_path / f"{name}_labels", options=options, preview=False)
        maps.append(
            np.stack([read_label(path).array for path in sorted((tmp_path / f"{name}_labels").glob("*.nii.gz"))])
        )
    swapped = np.array([0, 2, 1])[maps[0]]  # liver is 1 there and 2 here
    assert (swapped == maps[1]).mean() >= 0.9999
    assert len(np.unique(maps[1])) > 1
    assert main(["fit", str(tmp_path / "adapted"), *QUIET]) == 0


def test_names_that_differ_are_mapped_and_wrong_ones_refused(base: Path, both: Path, tmp_path: Path) -> None:
    found = adapt_bundle(base, both, tmp_path / "new", Wish(mapped={"anterior": "Posterior"}))
    assert found.classes == {"background": "background", "Posterior": "anterior", "Anterior": None}
    with pytest.raises(ConfigError, match="the source has no class 'front'"):
        adapt_bundle(base, both, tmp_path / "other", Wish(mapped={"front": "Posterior"}))


# the ten planted faults
def test_fault_other_names_of_parameters(base: Path, both: Path, tmp_path: Path) -> None:
    wrong = damaged(base, tmp_path / "s", lambda state: {f"net.{name}": value for name, value in state.items()})
    with pytest.raises(BundleError, match="0% of the network's weights come from it, expected 70%"):
        adapt_bundle(wrong, both, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_fault_one_key_renamed(base: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = damaged(
        base,
        tmp_path / "s",
        lambda state: {("x.bias" if name == "head.bias" else name): v for name, v in state.items()},
    )
    assert main(["adapt", str(wrong), "--data", str(both), "--output", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "head.bias: not in the source" in said
    assert "of the source without a place: 1\n  x.bias" in said


def test_fault_test_cases_in_the_pretraining_list(base: Path, both: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has seen validation cases of every fold"):
        adapt_bundle(pretrained(base, tmp_path / "s", both), both, tmp_path / "new")
    other = data_set(tmp_path / "three", {"1": "anterior"}, seed=3)
    adapt_bundle(pretrained(base, tmp_path / "clean", other), both, tmp_path / "fine")
    Layout(tmp_path / "fine").pretraining.write_text(Layout(tmp_path / "s").pretraining.read_text())
    with pytest.raises(ConfigError, match="validation cases of fold 0 were in the pretraining's list"):
        fit_bundle(tmp_path / "fine")


def test_fault_other_spacing_unsaid(base: Path, tmp_path: Path) -> None:
    coarse = data_set(tmp_path / "coarse", {"1": "anterior"}, spacing=4.0)
    with pytest.raises(ConfigError, match=r"voxels are 4 x 4 x 4 mm, the source sees 1 x 1 x 1 mm: 4.0 times apart"):
        adapt_bundle(base, coarse, tmp_path / "new")
    found = adapt_bundle(base, coarse, tmp_path / "new", Wish(anyway=True))
    assert "4.0 times apart" in found.warnings[0]
    lying = pretrained(base, tmp_path / "s", coarse, spacing=[2.0, 2.0, 2.0])
    with pytest.raises(ConfigError, match="another spacing or normalization than its weights were pretrained with"):
        adapt_bundle(lying, data_set(tmp_path / "z", {"1": "anterior"}, seed=5), tmp_path / "other")


def test_fault_other_normalization(base: Path, tmp_path: Path) -> None:
    ct = data_set(tmp_path / "ct", {"1": "anterior"}, channels=("CT",))
    with pytest.raises(ConfigError, match="the data are CT, and the source normalizes MRI image by image"):
        adapt_bundle(base, ct, tmp_path / "new")


def test_fault_other_order_of_channels(tmp_path: Path) -> None:
    source = source_bundle(tmp_path / "s", data_set(tmp_path / "a", {"1": "x"}, channels=("T1", "T2")))
    found = adapt_bundle(source, data_set(tmp_path / "b", {"1": "x"}, channels=("T2", "T1")), tmp_path / "new")
    assert found.channels == {"T2": "T2", "T1": "T1"}
    assert list(found.transfer.reshaped.values()) == ["channels by name"]
    stem = next(iter(found.transfer.reshaped))
    state = [torch.load(Layout(path).weights, weights_only=True)[stem] for path in (source, tmp_path / "new")]
    assert torch.equal(state[0].flip(1), state[1])


def test_fault_damaged_file(base: Path, both: Path, tmp_path: Path) -> None:
    wrong = damaged(base, tmp_path / "s", dict)
    content = Layout(wrong).weights.read_bytes()
    Layout(wrong).weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="is no readable weights file"):
        adapt_bundle(wrong, both, tmp_path / "new")


def test_fault_other_preset(base: Path, both: Path, tmp_path: Path) -> None:
    other = source_bundle(tmp_path / "other", both, preset="mednext")
    Layout(other).weights.write_bytes(Layout(base).weights.read_bytes())
    with pytest.raises(BundleError, match="Are they of another preset"):
        adapt_bundle(other, both, tmp_path / "new")


def test_fault_class_names_swapped(both: Path, tmp_path: Path) -> None:
    source = source_bundle(tmp_path / "s", data_set(tmp_path / "a", {"1": "anterior", "2": "posterior"}))
    found = adapt_bundle(source, both, tmp_path / "new")
    assert found.classes == {"background": "background", "Posterior": "posterior", "Anterior": "anterior"}
    bias = [torch.load(Layout(path).weights, weights_only=True)["head.bias"] for path in (source, tmp_path / "new")]
    assert torch.equal(bias[0][[0, 2, 1]], bias[1])


def test_fault_statistics_of_batch_norms_missing(both: Path, tmp_path: Path) -> None:
    network = {"preset": "resenc_unet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "size": "nano"}
    source = source_bundle(tmp_path / "s", both, overrides={"network": {**network, "norm": "batch"}})
    state = torch.load(Layout(source).weights, weights_only=True)
    torch.save({name: value for name, value in state.items() if "running" not in name}, Layout(source).weights)
    with pytest.raises(BundleError, match=r"the running statistics of .* batch norms are missing"):
        adapt_bundle(source, both, tmp_path / "new")


def test_weights_alone_are_refused_with_the_way_out(base: Path, both: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--init-from"):
        adapt_bundle(Layout(base).weights, both, tmp_path / "new")
