"""What the callbacks write when a number is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from medseg.training.callbacks import Curves, defined_metrics


def test_a_label_in_no_validation_case_has_no_dice_and_ends_no_training(tmp_path: Path) -> None:
    metrics = {"train_loss": 1.5, "val_dice": 0.5, "val_dice/common": 0.5, "val_dice/rare": float("nan")}
    trainer = SimpleNamespace(
        callback_metrics={name: torch.tensor(value) for name, value in metrics.items()},
        current_epoch=0, global_step=2, check_val_every_n_epoch=1, is_global_zero=True,
    )  # fmt: skip
    curves = Curves(tmp_path)
    curves.on_train_epoch_end(cast(Any, trainer), cast(Any, None))
    (row,) = json.loads((tmp_path / "metrics.json").read_text())
    assert row["val_dice/common"] == 0.5
    assert "val_dice/rare" not in row
    assert set(defined_metrics(cast(Any, trainer))) == {"train_loss", "val_dice", "val_dice/common"}
