"""`medseg networks`: known figures, JSON, bad input."""

import json

import pytest

from medseg.cli.main import main
from medseg.networks.cost import measure
from medseg.networks.mixers.selective_scan import SelectiveScan


def test_flop_of_a_patch_grow_with_its_volume_and_parameters_do_not() -> None:
    small, large = measure("resenc_unet", "nano", [32, 32, 32]), measure("resenc_unet", "nano", [64, 32, 32])
    assert large["flop"] == pytest.approx(2 * small["flop"], rel=0.01)
    assert large["parameters"] == small["parameters"]
    assert large["training_bytes"] > small["training_bytes"]


@pytest.mark.parametrize("preset", ["segmamba", "umamba_bot"])
def test_flop_of_mambas_op_are_those_of_its_parts(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(preset, "nano", [32, 32, 32])["flop"]
    monkeypatch.setattr(SelectiveScan, "eager", SelectiveScan.parts)
    assert measure(preset, "nano", [32, 32, 32])["flop"] == found


def test_command_lists_one_preset_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", "mambavision", "--roi-size", "32,32,16", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["preset"] == "mambavision"
    assert 1.5e6 <= row["parameters"] <= 3e6
    assert row["flop"] > 1e8


@pytest.mark.parametrize("words", [["mambavison"], ["--roi-size", "0,1"], ["mambavision", "--size", "huge"]])
def test_command_refuses_what_it_does_not_know(words: list[str]) -> None:
    assert main(["networks", *words]) == 1
