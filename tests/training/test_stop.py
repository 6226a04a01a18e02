"""A signal ends a training by our words, although Lightning has handlers of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel

from medseg.interruption import deferred
from medseg.training.stop import StopOnSignal


class Terminated(Callback):
    """Sends SIGTERM in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda *_: signal.raise_signal(signal.SIGTERM))


def train(folder: Path, hook: str) -> None:
    with deferred() as deferral:
        stop = StopOnSignal(folder)
        stop.deferral = deferral
        trainer = pl.Trainer(
            max_epochs=1, limit_train_batches=1, limit_val_batches=0, callbacks=[Terminated(hook), stop], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            accelerator="cpu", devices=1,
        )  # fmt: skip
        trainer.fit(BoringModel())
        assert trainer.state.finished
        assert trainer.global_step == 1


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_batch_end"])
def test_a_sigterm_from_the_start_to_the_last_step_lets_the_last_epoch_end_and_is_143(
    tmp_path: Path, hook: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, hook)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
