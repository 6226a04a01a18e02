"""Keep a training within its time budget: time it again after every epoch, and stretch the schedule where it drifts."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from medseg.config import read_json
from medseg.io.atomic import write_json
from medseg.layout import RunFolder

log = logging.getLogger(__name__)
# Left for writing weights, curves and records after the last epoch.
RESERVE = 0.03
# A change of the length is worth it from this share of the budget.
DRIFT = 0.03
# A training that ends further from its budget than this says why.
TOLD = 0.1
RECENT = 3  # epochs whose times count


class KeepBudget(Callback):
    """Changes the number of epochs so that the training ends with its budget; idle without one.

    Decisions lie in the checkpoint, so that a continued run has the schedule of the one that made them, and goes on to time
    itself. To stand before `LastCheckpoint`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.budget_s: float | None = None
        self.started = time.monotonic()
        self.before = 0.0  # seconds of the runs that this one continues
        self.validation_s = 0.0
        self.interval = 1
        self.first_total = 0  # steps as first planned, on which the learning rate's schedule is laid out
        self.changes: list[list[int]] = []  # [step, steps in all from there on]
        self.max_epochs = 0
        self._epochs: list[float] = []
        self._mark = self._validation_began = self._validated_s = 0.0

    def begin(self, budget_s: float, validation_s: float, interval: int) -> None:
        """Take a budget: seconds from `started`, of one validation, and epochs between two validations."""
        self.budget_s, self.validation_s, self.interval = budget_s, validation_s, max(1, interval)

    @property
    def seconds(self) -> float:
        """Used so far, by this run and those that it continues."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        if self.budget_s is None:
            return {}
        kept = ("budget_s", "validation_s", "interval", "first_total", "changes", "max_epochs", "seconds")
        return {name: getattr(self, name) for name in kept}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if not state:
            return
        for name, value in state.items():
            setattr(self, "before" if name == "seconds" else name, value)
        if self.max_epochs:
            trainer.fit_loop.max_epochs = self.max_epochs

    def total_steps(self, planned: int) -> int:
        """The steps over which the schedule is laid out; of a continued run those of its first."""
        self.first_total = self.first_total or planned
        return self.first_total

    def stretched(self, step: int) -> float:
        """Where a step lies on the schedule as first laid out, once the length has changed."""
        done, begin, total = 0.0, 0, self.first_total
        for change, now_total in self.changes:
            if step <= change:
                break
            done += (1.0 - done) * (change - begin) / max(1, total - begin)
            begin, total = change, now_total
        share = done + (1.0 - done) * (step - begin) / max(1, total - begin)
        return share * self.first_total if self.changes else step

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._mark, self._validated_s = time.monotonic(), 0.0

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validation_s = self._validated_s = time.monotonic() - self._validation_began

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now = time.monotonic()
        validated = self._validated_s > 0
        self._epochs.append(now - self._mark - self._validated_s)
        self._mark, self._validated_s = now, 0.0
        done, planned = trainer.current_epoch + 1, int(trainer.max_epochs or 0)
        if self.budget_s is None or done >= planned:
            return
        wanted = self._affordable(done, validated=validated)
        # the first process decides, by its own clock: all must change the length, or none
        wanted, epoch_s = trainer.strategy.broadcast((wanted, self._epoch_s()))
        self.max_epochs = planned
        if wanted != planned and abs(wanted - planned) * epoch_s > DRIFT * self.budget_s:
            self._change(trainer, wanted)

    def _epoch_s(self) -> float:
        recent = sorted(self._epochs[-RECENT:])
        return recent[len(recent) // 2] + self.validation_s / self.interval

    def _affordable(self, done: int, *, validated: bool) -> int:
        """Epochs in all that fit; after an epoch without a validation one more, since the last one is validated."""
        assert self.budget_s is not None
        left = self.budget_s * (1 - RESERVE) - self.seconds - (self.validation_s if self.interval > 1 else 0.0)
        return done + max(0 if validated else 1, int(left / max(1e-6, self._epoch_s())))

    def _change(self, trainer: pl.Trainer, epochs: int) -> None:
        steps = trainer.global_step // (trainer.current_epoch + 1)
        log.info(
            "budget of %.0f s: %.0f s are used after epoch %d and an epoch takes %.1f s, so epochs: %d instead of %d",
            self.budget_s, self.seconds, trainer.current_epoch + 1, self._epoch_s(), epochs, trainer.max_epochs,
        )  # fmt: skip
        self.changes.append([trainer.global_step, steps * epochs])
        self.max_epochs = trainer.fit_loop.max_epochs = epochs
        record = RunFolder(self.folder).budget
        if trainer.is_global_zero and record.is_file():
            write_json(record, {**read_json(record), "max_epochs": epochs})


def missed(length: Any, seconds: float, trainer: pl.Trainer) -> str | None:
    """Why a training took another time than its budget, or None where it kept it within 10 %.

    Args:
        length: its `Length`.
        seconds: what it took.
        trainer: how many epochs and steps it made.
    """
    facts = dataclasses.asdict(length)
    budget = float(facts["budget_s"])
    if abs(seconds - budget) <= TOLD * budget:
        return None
    step, validation = facts["step_s"], facts["validation_s"]
    least = f"a step takes {step:.1f} s and a validation {validation:.1f} s"
    early = trainer.should_stop and seconds < budget
    why = (
        "early_stop ended it"
        if early
        else f"{least}, {trainer.global_step} steps were made; the rest is preparing and writing"
    )
    return f"took {seconds:.0f} s of a budget of {budget:.0f} s: {why}"
