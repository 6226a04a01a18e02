from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.cli.plan import parse_memory
from medseg.commands.plan import plan_bundle
from medseg.errors import ResourceError
from medseg.planning.memory import measure_step
from tests.volumes import make_case

NETWORK = {"preset": "resenc_unet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "size": "nano"}


def test_a_larger_crop_holds_more_memory() -> None:
    small = measure_step(NETWORK, [32, 32, 32], 1)
    large = measure_step(NETWORK, [64, 64, 64], 1)
    # eight times the voxels: 7 maps of 16 channels more at least
    assert large.memory_bytes > small.memory_bytes + 100e6
    assert small.seconds > 0


@pytest.mark.slow
def test_a_plan_with_a_memory_budget_was_measured_and_fits(tmp_path: Path) -> None:
    for index in range(3):
        make_case(tmp_path / "data", f"c{index}", shape=(80, 80, 80), radius=20)
    plan = plan_bundle(tmp_path / "data", tmp_path / "bundle", preset="resenc_unet", memory_bytes=0.9e9, device="cpu")
    assert "measured: a step holds" in plan.reasons["batch_size"]
    assert measure_step(plan.network, plan.roi_size, plan.batch_size).memory_bytes <= 1.1 * 0.9e9
    assert json.loads((tmp_path / "bundle" / "plan.json").read_text())["roi_size"] == plan.roi_size


def test_a_step_that_cannot_run_says_so() -> None:
    with pytest.raises(ResourceError, match="failed"):
        measure_step({**NETWORK, "preset": "no_such"}, [32, 32, 32], 1)


@pytest.mark.parametrize(("text", "value"), [("8GB", 8e9), ("800MB", 8e8), ("8", 8e9), ("1.5 GiB", 1.5e9)])
def test_amounts_of_memory(text: str, value: float) -> None:
    assert parse_memory(text) == value
