"""The user's own code: named by the user it trains and predicts, travels with the bundle, and is asked about anywhere else."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.bundle.load import load_bundle
from medseg.cli.main import main
from medseg.errors import UntrustedBundleError
from medseg.layout import Layout
from medseg.planning.plan import Plan
from tests.bundle.samples import QUICK, make_bundle

MIXERS = """
from typing import Tuple

from torch import Tensor, nn

from medseg.networks.contract import Context, Site


class MeanMixer(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.own_layer = nn.Linear(site.width, site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return self.own_layer(x.mean((1, 2, 3), keepdim=True)).expand(x.shape), context
"""
LOSSES = """
import torch


class Squared(torch.nn.Module):
    def forward(self, logits, target):
        truth = torch.nn.functional.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1)
        return (logits.softmax(1) - truth).square().mean()
"""
TABLES = """
import os, pathlib

from .losses import Squared
from .mixers import MeanMixer

MIXERS = {"mean": MeanMixer}
LOSSES = {"squared": Squared}
if "WITNESS" in os.environ:
    pathlib.Path(os.environ["WITNESS"]).touch()
"""
SPLITS = [{"train": ["case1", "case2"], "val": ["case0"]}, {"train": ["case0", "case2"], "val": ["case1"]}]


def write_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"__init__": TABLES, "mixers": MIXERS, "losses": LOSSES}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with data, a project and a bundle of two folds: the first names the project, the second goes on without."""
    place = tmp_path_factory.mktemp("mine")
    project = write_project(place / "my_code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_TRUSTED", str(place / "trusted.json"))
        patch.setenv("MEDSEG_STORE", str(place / "store"))
        scans = {"preset": "mambavision", "size": "nano", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
        folder = make_bundle(place / "own", place / "data", folds=2, splits=SPLITS, network=scans).folder
        Layout(folder).weights.unlink()
        own = [f"project={project}", "network_def::mixer=mean", "train::module::loss=squared"]
        assert main(["fit", str(folder), *own, *QUICK]) == 0
        shutil.rmtree(project)  # from now on the bundle has it
        assert main(["fit", str(folder), "--fold", "1", *QUICK]) == 0
    return place


@pytest.fixture
def at_home(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same user as trained it."""
    monkeypatch.setenv("MEDSEG_TRUSTED", str(mine / "trusted.json"))
    return mine


def predict(bundle: Path, place: Path, *options: str) -> int:
    image = place / "data" / "images" / "case0.nii.gz"
    return main(
        ["predict", str(bundle), "-i", str(image), "-o", str(place / "out"), "--no-preview", "--quiet", *options]
    )


def test_a_bundle_with_a_mixer_of_its_users_own_predicts_without_being_asked_about(at_home: Path) -> None:
    bundle = at_home / "own"
    assert predict(bundle, at_home) == 0
    opened = load_bundle(bundle)
    assert "own_layer" in " ".join(opened.network().state_dict())
    assert (Plan.read(Layout(bundle).plan).project, opened.own_network_def["project"]) == ("my_code", "my_code")


def test_packed_it_holds_the_folder_and_says_so_and_elsewhere_it_needs_trust(
    mine: Path, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zipped = tmp_path / "own.zip"
    assert main(["bundle", "pack", str(at_home / "own"), "-o", str(zipped)]) == 0
    assert "it holds your code (my_code)" in capsys.readouterr().out
    names = {name.partition("/")[2] for name in zipfile.ZipFile(zipped).namelist()}
    assert {"my_code/__init__.py", "my_code/mixers.py", "my_code/losses.py"} <= names
    assert predict(at_home / "own", at_home) == 0
    here = np.asarray(nibabel.load(at_home / "out" / "case0.nii.gz").dataobj)

    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "elsewhere.json"))
    monkeypatch.setenv("MEDSEG_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("WITNESS", str(tmp_path / "ran"))
    assert main(["bundle", "install", str(zipped), "--quiet"]) == 0
    installed = tmp_path / "bundles" / "tiny_mr_unet"
    assert predict(installed, mine) == 1
    assert "give --trust" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists(), "nothing of it was run"
    load_bundle(installed, trust=True)
    assert predict(installed, mine) == 0
    assert (tmp_path / "ran").exists()
    np.testing.assert_array_equal(np.asarray(nibabel.load(mine / "out" / "case0.nii.gz").dataobj), here)

    with (installed / "my_code" / "mixers.py").open("a") as file:
        file.write("# changed\n")
    assert predict(installed, mine) == 1
    assert "my_code/mixers.py changed since" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["my_code/mixers.py", "my_code/new.py", "configs/inference.json", "plan.json"])
def test_an_altered_bundle_of_ones_own_asks_again(
    changed: str, at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(at_home / "own", tmp_path / "own", ignore=shutil.ignore_patterns("runs")))
    load_bundle(bundle)  # a copy is the same
    with (bundle / changed).open("a") as file:
        file.write("\n")
    assert predict(bundle, at_home) == 1
    assert "give --trust" in capsys.readouterr().err


@pytest.fixture
def stranger(tmp_path: Path) -> Layout:
    """An untrained bundle without code whose files may be edited, beside a project that it does not own."""
    write_project(tmp_path / "evil")
    layout = make_bundle(tmp_path / "stranger", tmp_path / "data")
    shutil.copytree(tmp_path / "evil", layout.folder / "evil")
    return layout


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_strangers_plan_that_names_a_project_is_refused_by_every_verb(
    stranger: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WITNESS", str(tmp_path / "ran"))
    folder = str(stranger.folder)
    for name in ("evil", "./evil", str(tmp_path / "evil")):
        edit(stranger.plan, project=name)
        for words in (["fit", folder, *QUICK], ["plan", "--apply", folder], ["bundle", "verify", folder]):
            assert main(words) == 1, words
            assert "refused" in "".join(capsys.readouterr()), words
        assert predict(stranger.folder, tmp_path) == 1
        assert "give --trust" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_strangers_configuration_that_names_a_project_is_refused(
    stranger: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WITNESS", str(tmp_path / "ran"))
    edit(stranger.train, project="evil")
    assert main(["fit", str(stranger.folder), *QUICK]) == 1
    assert "is code that the bundle brings" in capsys.readouterr().err
    definition = json.loads(stranger.inference.read_text())["network_def"]
    edit(stranger.inference, network_def={**definition, "project": "evil", "mixer": "mean"})
    with pytest.raises(UntrustedBundleError, match="code that the bundle brings"):
        load_bundle(stranger.folder)
    assert not (tmp_path / "ran").exists()


def test_training_a_strangers_bundle_with_ones_own_code_does_not_make_it_ones_own(
    stranger: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stranger.inference.open("a") as file:
        file.write("\n")
    project = write_project(tmp_path / "my_code")
    assert main(["fit", str(stranger.folder), f"project={project}", "network_def::mixer=mean", *QUICK]) == 0
    with pytest.raises(UntrustedBundleError, match="--trust"):
        load_bundle(stranger.folder)


def test_a_project_that_only_trains_stays_out_of_the_bundle(tmp_path: Path) -> None:
    layout = make_bundle(tmp_path / "own", tmp_path / "data")
    write_project(tmp_path / "config" / "my_code")
    (tmp_path / "config" / "mine.json").write_text(
        json.dumps({"project": "./my_code", "train::module::loss": {"name": "squared"}})
    )
    assert main(["fit", str(layout.folder), "--config", str(tmp_path / "config" / "mine.json"), *QUICK]) == 0
    assert not (layout.folder / "my_code").exists()
    load_bundle(layout.folder)


def test_components_of_the_users_own_configuration_train_and_predict(tmp_path: Path) -> None:
    layout = make_bundle(tmp_path / "own", tmp_path / "data", roi_size=[16, 16, 16])
    named = {
        "network_def": {
            "_target_": "monai.networks.nets.AttentionUnet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
            "channels": [4, 8], "strides": [2],
        },
        "train::module::loss": {"_target_": "monai.losses.TverskyLoss", "softmax": True, "to_onehot_y": True},
        "train::module::optimizer": {"_target_": "torch.optim.RMSprop", "alpha": 0.9},
        "train::dataset::augmentation": {"_target_": "monai.transforms.RandGaussianNoised", "keys": "image", "prob": 1.0},
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(named))
    assert main(["fit", str(layout.folder), "--config", str(tmp_path / "mine.json"), *QUICK]) == 0
    assert type(load_bundle(layout.folder).network()).__name__ == "AttentionUnet"
    assert predict(layout.folder, tmp_path) == 0


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("nowhere", None, "no such folder"),
        ("my-code", {"__init__.py": ""}, "no name that Python can import"),
        ("json", {"__init__.py": ""}, "such as my_json"),
        ("torch", {"__init__.py": ""}, "such as my_torch"),
        ("models", {"__init__.py": ""}, "a folder of every bundle"),
        ("my_empty", {"parts.py": ""}, "has no __init__.py"),
        ("my_broken", {"__init__.py": "import nothing_of_that_name"}, "__init__.py line 1: ModuleNotFoundError"),
        ("my_typo", {"__init__.py": "MIXERS = {'men': None}"}, "Did you mean men"),
    ],
)
def test_a_folder_that_cannot_be_a_project_is_told_in_a_line(
    name: str,
    files: dict[str, str] | None,
    said: str,
    bundle: Layout,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file, text in (files or {}).items():
        (tmp_path / "x" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name / file).write_text(text)
    words = ["fit", str(bundle.folder), f"project={tmp_path / 'x' / name}", "network_def::mixer=mean", *QUICK]
    assert main(words) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
