"""plan.json, train.json and the folder they lie in: nothing takes effect silently, nothing is lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.bundle.checks.planned import check_plan, plan_differences
from medseg.cli.main import main
from medseg.commands.fit import fit_bundle
from medseg.errors import ConfigError
from medseg.layout import Layout
from tests.volumes import make_case

Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    for index in range(3):
        make_case(folder, f"ball_{index}", radius=4.0, seed=index)
    return folder


def plan(data: Path, output: Path, *more: str) -> int:
    words = ["plan", "--data", str(data), "--output", str(output), "--preset", "resenc_unet", "--folds", "3", "--quiet"]
    return main([*words, *more])


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Layout:
    assert plan(data, tmp_path / "balls") == 0
    return Layout(tmp_path / "balls")


def edit(path: Path, *keys: str, value: Any) -> None:
    content = json.loads(path.read_text())
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    path.write_text(json.dumps(content))


EDITS: dict[str, tuple[tuple[str, ...], Any]] = {
    "batch_size": (("batch_size",), 3),
    "roi_size": (("roi_size",), [16, 16, 16]),
    "max_epochs": (("optimization", "max_epochs"), 7),
    "train::module::learning_rate": (("optimization", "learning_rate"), 0.5),
    "train::trainer::gradient_clip": (("optimization", "gradient_clip"), 3.0),
    "preprocessing_def::spacing": (("spacing",), [1.0, 1.0, 2.0]),
    "network_def::preset": (("network", "preset"), "mednext"),
    "train::dataset::augmentation::mirror": (("augmentation", "mirror"), 0.0),
    "labels::1": (("labels", "1"), "ball"),
    "train::inferer::overlap": (("inference", "overlap"), 0.25),
    "splits": (("splits",), [{"train": [f"ball_{n}" for n in "012" if n != i], "val": [f"ball_{i}"]} for i in "201"]),
}


def test_every_edit_of_the_plan_is_refused_by_name_until_it_is_applied(
    bundle: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_differences(bundle) == []
    edit(bundle.train, "seed", value=5)  # no plan decides it: it has to stay
    for keys, value in EDITS.values():
        edit(bundle.plan, *keys, value=value)
    with pytest.raises(ConfigError, match=r"plan\.json and what trains differ") as refused:
        fit_bundle(bundle.folder)
    for place in EDITS:
        assert f"{place}: plan.json" in str(refused.value)
    assert len(check_plan(bundle)) == len(EDITS)
    capsys.readouterr()
    assert main(["plan", "--apply", str(bundle.folder)]) == 0
    said = capsys.readouterr().out
    assert "configs/train.json: train::module::learning_rate 0.002 -> 0.5" in said or "learning_rate" in said
    assert f"{len(EDITS)} values changed" in said
    assert plan_differences(bundle) == []
    train = json.loads(bundle.train.read_text())
    assert (train["batch_size"], train["max_epochs"], train["seed"]) == (3, 7, 5)
    assert json.loads(bundle.inference.read_text())["network_def"]["preset"] == "mednext"
    assert main(["plan", "--apply", str(bundle.folder)]) == 0
    assert "no values changed" in capsys.readouterr().out


def test_a_length_may_be_said_in_train_json_alone_and_other_values_may_not(bundle: Layout) -> None:
    edit(bundle.train, "max_epochs", value=3)
    assert [each.allowed for each in plan_differences(bundle)] == [True]
    assert check_plan(bundle) == []
    edit(bundle.plan, "optimization", "max_epochs", value=9)
    assert check_plan(bundle) == [
        "plan.json and configs/train.json differ: max_epochs: plan.json 9, configs/train.json 3"
    ]
    edit(bundle.train, "max_epochs", value=9)
    folds = json.loads(bundle.splits.read_text())
    bundle.splits.write_text(json.dumps(folds[:1]))  # folds made elsewhere, such as nnU-Net's
    assert [each.allowed for each in plan_differences(bundle) if each.place == "splits"] == [True]
    edit(bundle.train, "batch_size", value=3)
    with pytest.raises(ConfigError, match="batch_size"):
        fit_bundle(bundle.folder)


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "LICENSE").write_text("mine")
    for more in ((), ("--overwrite",)):
        assert plan(data, tmp_path / "mine", *more) == 1
        assert "is not empty and no bundle (it holds LICENSE)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["LICENSE"]
    assert (tmp_path / "mine" / "LICENSE").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert plan(data, tmp_path / "empty") == 0


@pytest.mark.parametrize(
    "name", ["plan.json", "configs/train.json", "configs/inference.json", "LICENSE", "docs/README.md"]
)
def test_a_second_plan_keeps_edits_or_sets_them_aside(
    bundle: Layout, data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(data, bundle.folder) == 0  # nothing was edited
    path = bundle.folder / name
    if path.suffix == ".json":
        edit(path, "name" if name == "plan.json" else "bundle_root", value="edited")
    else:
        path.write_text("edited")
    kept = path.read_bytes()
    assert plan(data, bundle.folder) == 1
    assert f"{name} changed since it was planned" in capsys.readouterr().err
    assert path.read_bytes() == kept
    assert plan(data, bundle.folder, "--overwrite") == 0
    aside = bundle.folder.with_name("balls.previous_1")
    assert (aside / name).read_bytes() == kept
    assert path.read_bytes() != kept
    assert sorted(path.name for path in bundle.folder.parent.iterdir()) == ["balls", "balls.previous_1"]
