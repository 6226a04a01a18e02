"""Training on crops that are made where the network is, against crops made by the loader (CPU; not measured on a GPU)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseg.commands.fit import fit_bundle
from medseg.commands.plan import plan_bundle
from medseg.errors import ConfigError
from medseg.training.datamodule import SegmentationData
from tests.volumes import make_case

QUICK = {
    **{"max_epochs": 2, "steps_per_epoch": 2, "batch_size": 2, "val_interval": 2, "num_workers": 0},
    **{"train::trainer::tracking": False, "train::trainer::precision": "32-true"},
}


def test_both_places_train_alike(tmp_path: Path) -> None:
    for index in range(2):
        make_case(tmp_path / "data", f"ball_{index}", shape=(20, 18, 16), seed=index)
    plan_bundle(tmp_path / "data", tmp_path / "bundle", preset="resenc_unet")
    losses, weights = [], []
    for place in ("cpu", "device"):
        fit_bundle(tmp_path / "bundle", overrides={**QUICK, "train::data::augmentation_device": place})
        rows = json.loads((tmp_path / "bundle" / "runs" / "fold_0" / "metrics.json").read_text())
        losses.append([row["train_loss"] for row in rows])
        weights.append(torch.load(tmp_path / "bundle" / "models" / "fold_0" / "model.pt", weights_only=True))
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-2, rtol=0)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="augmentation_device is 'gpu'; expected auto, cpu or device"):
        SegmentationData(None, None, batch_size=1, augmentation_device="gpu")  # type: ignore[arg-type]
