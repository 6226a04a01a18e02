"""Stop when the validation Dice no longer rises; the count is part of the checkpoint, so that a resumed run stops where
the uninterrupted one would."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from medseg.errors import ConfigError

log = logging.getLogger(__name__)
METRIC = "val_dice"


class EarlyStop(Callback):
    """End the training after so many validations in a row without a new best mean Dice.

    The weights kept are the last ones (the exponential average, where there is one), not those of the best validation: the
    best of several validations on the same cases would flatter the result.

    Args:
        patience: validations without improvement.
        least: rise of the Dice that counts as improvement.

    Raises:
        ConfigError: the patience is not positive.
    """

    def __init__(self, patience: int, *, least: float = 1e-3) -> None:
        if int(patience) < 1:
            raise ConfigError(f"early_stop is {patience}; expected a number of validations from 1, or null for none")
        self.patience, self.least = int(patience), least
        self.best, self.best_epoch, self.waited = -math.inf, -1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop = self.waited >= self.patience  # resumed between the decision and the end

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if METRIC not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[METRIC])
        if value > self.best + self.least:
            self.best, self.best_epoch, self.waited = value, trainer.current_epoch, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.should_stop = True
            log.info(
                "stopping after epoch %d: no validation Dice above %.4f (epoch %d) in %d validations",
                trainer.current_epoch, self.best, self.best_epoch, self.waited,
            )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What result.json says about it."""
        stopped = self.waited >= self.patience
        return {"stopped_early": stopped, "best_val_dice": self.best, "best_epoch": self.best_epoch}
