"""End a training that a signal asked to end: after the step, with a checkpoint from which it goes on bit for bit."""

from __future__ import annotations

import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from medseg.interruption import Deferral, Ended
from medseg.layout import RunFolder

# A validation that is longer is preceded by a checkpoint, so that ending it loses one step and not an epoch of them.
LONG_VALIDATION_S = 5.0


class StopOnSignal(Callback):
    """Save and stop after the step in which a signal came; to stand last, when the step's averages are made.

    The end of an epoch is left to `LastCheckpoint`: Lightning would skip the validation of an epoch whose last step was saved.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = RunFolder(folder).checkpoint
        self.deferral: Deferral | None = None
        self._began = 0.0
        self._validation_s = float("inf")

    def on_sanity_check_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._take_back(trainer)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._take_back(trainer)

    def _take_back(self, trainer: pl.Trainer) -> None:
        """Lightning puts its handlers in place after `on_fit_start`; on SIGTERM they raise at the end of an epoch.

        A signal that came in between went to ours as well, so what Lightning noted of it is forgotten.
        """
        if self.deferral is not None:
            self.deferral.take_back()
            trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        left = int(trainer.num_training_batches) - progress.current.ready
        if left <= 0:
            return
        asked = self._asked(trainer)
        if asked or (left == 1 and self._validation_s > LONG_VALIDATION_S and self._will_validate(trainer)):
            trainer.save_checkpoint(self.path)
        if asked:
            raise Ended(asked)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1 >= int(trainer.max_epochs or 0)
        if not done and (asked := self._asked(trainer)):
            trainer.save_checkpoint(self.path)
            raise Ended(asked)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._began = time.monotonic()

    def on_validation_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        long = max(time.monotonic() - self._began, self._validation_s) > LONG_VALIDATION_S
        # each process by itself: they validate different cases, and a signal that ends a training goes to all of them
        if self.path.is_file() and long and (asked := self._mine):
            raise Ended(asked)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # the slowest one's, so that all take the same decisions by it
        taken = module_tensor(trainer, time.monotonic() - self._began)
        self._validation_s = float(trainer.strategy.reduce(taken, reduce_op="max"))

    def _will_validate(self, trainer: pl.Trainer) -> bool:
        return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0

    def _asked(self, trainer: pl.Trainer) -> int:
        """The signal, once any process has it; all of them ask at the same steps."""
        if trainer.world_size == 1:
            return self._mine
        return int(trainer.strategy.reduce(module_tensor(trainer, self._mine), reduce_op="max"))

    @property
    def _mine(self) -> int:
        return 0 if self.deferral is None or self.deferral.received is None else int(self.deferral.received)


def module_tensor(trainer: pl.Trainer, value: float) -> object:
    """A number as a tensor where the processes exchange theirs."""
    import torch

    return torch.tensor(float(value), device=trainer.strategy.root_device)
