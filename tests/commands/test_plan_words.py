"""medseg plan takes values of plan.json and a project; what it was told stands in the plan with that reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medseg.bundle.load import load_bundle
from medseg.cli.main import main
from medseg.commands.cv import validation_cases
from medseg.layout import Layout
from medseg.planning.plan import Plan
from tests.bundle.samples import QUICK
from tests.volumes import make_case

CODE = """
from medseg.datasets import folder
from medseg.networks.presets.scans import vim


class Nested:
    @staticmethod
    def matches(root):
        return (root / "nested").is_dir()

    @staticmethod
    def load(root):
        return folder.load(root / "nested")


PRESETS = {"my_vim": vim}
DATASETS = {"nested": Nested}
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSEG_TRUSTED", str(tmp_path / "trusted.json"))
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        make_case(tmp_path / "data" / "nested", f"ball_{number}", radius=4.0, seed=number)
    return tmp_path


def test_a_plan_has_the_values_that_were_asked_for_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.json").write_text(json.dumps({"optimization": {"loss": "ce"}, "batch_size": 3}))
    plan = ["plan", "--data", "data/nested", "--quiet"]
    assert main([*plan, "--output", "b", "optimization::loss=dice_focal", "batch_size=1"]) == 0
    made = Plan.read(Layout(Path("b")).plan)
    assert (made.optimization["loss"], made.batch_size) == ("dice_focal", 1)
    assert made.reasons["batch_size"].endswith("asked for: batch_size=1")
    assert json.loads(Layout(Path("b")).train.read_text())["train"]["module"]["loss"] == "dice_focal"
    capsys.readouterr()
    assert main([*plan, "--output", "c", "lr=0.1"]) == 1
    assert "optimization::learning_rate" in capsys.readouterr().err
    assert main([*plan, "--output", "c", "roi_size=[16,16]"]) == 1
    assert "expected 3 (spatial_dims)" in capsys.readouterr().err
    assert main([*plan, "b"]) == 2
    assert "unexpected word 'b'" in capsys.readouterr().err
    assert not Path("c").exists()


def test_a_project_brings_a_preset_and_a_layout_of_datasets_and_trains_without_being_named_again(place: Path) -> None:
    (place / "my_code").mkdir()
    (place / "my_code" / "__init__.py").write_text(CODE)
    (place / "mine.json").write_text(json.dumps({"project": "./my_code"}))
    words = [
        "plan",
        "--data",
        "data",
        "--output",
        "b",
        "--preset",
        "my_vim",
        "--stages",
        "2",
        "--folds",
        "2",
        "--quiet",
    ]
    assert main([*words, "--config", "mine.json"]) == 0
    shutil.rmtree(place / "my_code")
    assert (Plan.read(Layout(Path("b")).plan).network["preset"], Plan.read(Layout(Path("b")).plan).project) == (
        "my_vim",
        "my_code",
    )
    assert main(["fit", "b", *QUICK]) == 0
    bundle = load_bundle("b")
    assert [len(cases) for cases in validation_cases(bundle, [0, 1]).values()] == [2, 1]
    coarse = bundle.config.raw["low_resolution"]["network_def"]
    assert (bundle.own_network_def["project"], coarse["project"]) == ("my_code", "my_code")
