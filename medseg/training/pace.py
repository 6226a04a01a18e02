"""How fast a training goes, for the tracking server: learning rate, seconds of a step, waiting for data, memory."""

from __future__ import annotations

import time

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class Pace(Callback):
    """Log, after every epoch, the learning rate, the mean seconds of a step and of waiting for its crops, and the memory held."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._steps = self._step_s = self._wait_s = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._steps = self._step_s = self._wait_s = 0.0
        self._ended = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        self._began = time.monotonic()
        self._wait_s += self._began - self._ended

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        self._ended = time.monotonic()
        self._step_s += self._ended - self._began
        self._steps += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.logger is None or not self._steps:
            return
        facts = {
            "step_seconds": self._step_s / self._steps,
            "data_wait_seconds": self._wait_s / self._steps,
            "memory_gb": _memory_bytes(trainer.strategy.root_device) / 1e9,
        }
        optimizers = trainer.optimizers
        if optimizers:
            facts["learning_rate"] = float(optimizers[0].param_groups[0]["lr"])
        trainer.logger.log_metrics(facts, trainer.global_step)


def _memory_bytes(device: torch.device) -> float:
    """The most that training held on a GPU, or what the process holds now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)
