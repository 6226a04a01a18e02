"""Reasons in a plan are computed: what nobody asked for is not called asked for, and what capped a value is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg.cli.main import main
from medseg.commands.plan import plan_bundle
from medseg.datasets import Dataset
from medseg.planning.folds import make_splits
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan
from tests.planning.test_planner import fingerprint_of, open_dataset_of
from tests.volumes import make_case

LARGE = {"median_shape": [512.0, 512.0, 300.0], "median_spacing": [0.8] * 3, "spacing_p10": [0.8] * 3}
SMALL = {"median_shape": [24.0, 24.0, 24.0], "median_spacing": [1.0] * 3, "spacing_p10": [1.0] * 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset_of(tmp_path_factory.mktemp("reasons"))


def planned(dataset: Dataset, facts: dict[str, Any] = LARGE, folds: int = 2, **request: Any) -> Plan:
    return make_plan(
        dataset, fingerprint_of(**facts), make_splits(dataset.cases, folds), Request(name="balls", **request)
    )


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("facts", [LARGE, SMALL])
def test_nothing_is_called_asked_for_when_nobody_asked(dataset: Dataset, facts: dict[str, Any], gpu: bool) -> None:
    reasons = planned(dataset, facts, gpu=gpu).reasons
    assert not [name for name, words in reasons.items() if "ask" in words or "--memory allows" in words]
    assert "medseg's default preset, mambavision, in the default size, nano" in reasons["network"]


def test_what_was_asked_for_is_called_so(dataset: Dataset, tmp_path: Path) -> None:
    asked = {"preset": "resenc_unet", "spatial_dims": 2, "device": "cpu", "missing_channels": "zero"}
    reasons = planned(dataset, chosen=["preset"], **asked).reasons
    assert "the preset asked for, resenc_unet, in the default size, nano" in reasons["network"]
    assert reasons["spatial_dims"] == "asked for"
    assert "2 000 steps, since device cpu was asked for" in reasons["optimization"]
    assert reasons["missing_channels"].startswith("asked for")
    assert "the size asked for" in planned(dataset, size="nano", chosen=["size"]).reasons["network"]
    assert planned(dataset, SMALL, stages=2).reasons["low_resolution"].startswith("asked for")
    declared = replace(dataset, regions={"all": (1,)}, region_order=(1,))
    assert planned(declared).reasons["regions"].startswith("the dataset declares")
    assert planned(declared, chosen=["regions"]).reasons["regions"].startswith("--region asks for")


@pytest.mark.parametrize(
    ("facts", "request_", "crop", "batch"),
    [
        (LARGE, {}, "which the time a step takes without a GPU allows", "as the time a step takes without a GPU allows"),
        (LARGE, {"gpu": True}, "which the 8 GB of a default plan allows", "as the 8 GB of a default plan allows"),
        (LARGE, {"memory_bytes": 2e9}, "which the 2 GB of --memory allows", "as the 2 GB of --memory allows"),
        (SMALL, {"memory_bytes": 64e9}, "covers the median case", "the most that are planned for a step; the 64 GB of --memory"),
        (LARGE, {"memory_bytes": 1e6}, "the smallest crop that the network takes", "the least that are planned for a step"),
    ],
)  # fmt: skip
def test_crop_and_batch_name_what_capped_them(
    dataset: Dataset, facts: dict[str, Any], request_: dict[str, Any], crop: str, batch: str
) -> None:
    reasons = planned(dataset, facts, **request_).reasons
    assert crop in reasons["roi_size"]
    assert batch in reasons["batch_size"]


def test_folds_name_what_their_number_came_from(dataset: Dataset) -> None:
    assert planned(dataset, folds=2).reasons["splits"] == "2 shuffled folds over subjects"
    few = make_plan(dataset, fingerprint_of(), make_splits(dataset.cases, 5), Request(name="balls", folds=5))
    assert few.reasons["splits"] == "3 shuffled folds, one for each subject: there are no more for the 5 wanted"
    own = replace(dataset, splits=make_splits(dataset.cases, 2))
    assert planned(own, folds=2).reasons["splits"] == "2 folds of the dataset's own splits file"


def test_the_verb_hands_on_what_was_asked_for(tmp_path: Path) -> None:
    for index in range(2):
        make_case(tmp_path / "data", f"ball_{index}", radius=4.0, seed=index)
    plan = plan_bundle(tmp_path / "data", tmp_path / "b", preset="resenc_unet", folds=4, device="cpu")
    assert "no more for the 4 wanted" in plan.reasons["splits"]
    assert "the preset asked for" in plan.reasons["network"]
    assert "since device cpu was asked for" in plan.reasons["optimization"]
    assert "the default size" in plan.reasons["network"]


def test_a_bare_number_of_memory_is_gigabytes_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    words = ["plan", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "b")]
    assert main([*words, "--memory", "2"]) == 1  # there are no data; a plan would measure steps
    assert "--memory 2 is taken as 2 GB" in caplog.text
    caplog.clear()
    assert main([*words, "--memory", "2GB"]) == 1
    assert "taken as" not in caplog.text
    for amount in ("2b", "2 bytes", "0", "0GB", "1.2.3GB", "-1GB", "two"):
        assert main([*words, f"--memory={amount}"]) == 2
        assert "is no amount of memory; expected such as 8GB" in capsys.readouterr().err
