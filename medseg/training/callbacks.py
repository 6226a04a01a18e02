"""What happens beside the loss: progress, curves, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from medseg.bars import open_bar
from medseg.heartbeat import step
from medseg.io.atomic import write_json
from medseg.layout import RunFolder


def defined_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """The metrics that are numbers: the Dice of a label that no validation case holds, and none was given, is none."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Progress(Callback):
    """One line for the whole training: steps, remaining time, loss, validation Dice."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.step: Any = None  # what is told where there is no terminal
        self.shown: dict[str, str] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            total, first = int(trainer.estimated_stepping_batches), trainer.global_step
            self.opened = step("training", total, "steps")
            self.step = self.opened.__enter__()
            self.step.done = self.step.first = first
            self.bar = open_bar("training", total, unit="step", first=first)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        if self.step is not None:
            self.step.advance(trainer.global_step)
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)

    def _show(self, trainer: pl.Trainer) -> None:
        if self.step is not None:
            for key, short, digits in (("train_loss", "loss", 3), ("val_dice", "dice", 2)):
                if key in trainer.callback_metrics:
                    self.shown[short] = f"{float(trainer.callback_metrics[key]):.{digits}f}"
            self.step.note = ", ".join(f"{name} {value}" for name, value in self.shown.items())
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._show(trainer)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.step is not None:
            self._show(trainer)
            self.opened.__exit__(None, None, None)
            self.step = None
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    on_exception = lambda self, trainer, module, exception: self.on_fit_end(trainer, module)  # noqa: E731


class ValidateLast(Callback):
    """Validate after the last epoch whatever the interval: the weights that are kept are the ones whose Dice is told."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, module)  # a continued run begins its first epoch without the hook below

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class Curves(Callback):
    """Loss and Dice per epoch as `metrics.json`, kept in the checkpoint too, so that a resumed run has one curve.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.seconds_before = 0.0
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seconds_before = list(state["rows"]), float(state["seconds"])

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            "seconds": round(self.seconds, 1),
        }
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        for key, value in defined_metrics(trainer).items():
            if key.startswith("train_") or (validated and key.startswith("val_")):
                row[key] = value
        self.rows.append(row)
        if trainer.is_global_zero:
            write_json(RunFolder(self.folder).metrics, self.rows)


class LastCheckpoint(Callback):
    """`last.ckpt` after every epoch: all that exact resume needs.

    Args:
        folder: the run's folder.
        every: epochs between checkpoints; the last epoch is always kept.
    """

    def __init__(self, folder: Path, *, every: int = 1) -> None:
        self.path, self.every = RunFolder(folder).checkpoint, every

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every == 0 or trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.save_checkpoint(self.path)


class Ema(WeightAveraging):
    """Exponential average of the weights, with a warm start: the first, poor weights are forgotten sooner.

    Args:
        decay: share of the old average kept at each step; at step n at most (1 + n) / (10 + n).
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current.clone()  # counters
            steps = float(count)
            return averaged.lerp(current, 1.0 - min(decay, (1.0 + steps) / (10.0 + steps)))

        # Buffers are averaged as well: batch-norm statistics belong to the averaged weights.
        super().__init__(use_buffers=True, avg_fn=average)

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        trainer.precision_plugin.convert_module(
            module
        )  # Lightning does it later, and the average would stay in float32
        super().setup(trainer, module, stage)
