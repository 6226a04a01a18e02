"""The verbs as functions take what a notebook gives them: paths as text."""

from __future__ import annotations

from pathlib import Path

import pytest

import medseg
from medseg.errors import BundleError
from tests.volumes import make_case


def test_plan_fit_and_evaluate_take_paths_as_text(tmp_path: Path) -> None:
    for index in range(3):
        make_case(tmp_path / "data", f"ball_{index}", radius=4.0, seed=index)
    plan = medseg.plan(str(tmp_path / "data"), str(tmp_path / "balls"), preset="resenc_unet")
    assert plan.name == "balls"
    quick = {
        "max_epochs": 1,
        "steps_per_epoch": 1,
        "batch_size": 1,
        "num_workers": 0,
        "train::trainer::tracking": False,
    }
    assert "val_dice" in medseg.fit(str(tmp_path / "balls"), overrides=quick)[0]
    labels = str(tmp_path / "data" / "labels")
    assert medseg.evaluate(labels, labels, labels={1: "ball"}).mean("dice", "ball") == 1.0
    with pytest.raises(BundleError):
        medseg.plan(str(tmp_path / "data"), str(tmp_path / "balls"))
