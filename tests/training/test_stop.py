"""A signal ends a training by our words, although Lightning has handlers of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HOOKS = ("on_fit_start", "on_train_start", "on_train_batch_end")
# in a process of its own: a signal to the tests' process would be any other test's as well
TRAININGS = """
import json, signal, sys
from pathlib import Path
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from medseg.interruption import deferred
from medseg.training.stop import StopOnSignal


class Terminated(Callback):
    def __init__(self, hook):
        setattr(self, hook, lambda *_: signal.raise_signal(signal.SIGTERM))


def train(folder, hook):
    with deferred() as deferral:
        stop = StopOnSignal(folder)
        stop.deferral = deferral
        trainer = pl.Trainer(
            max_epochs=1, limit_train_batches=1, limit_val_batches=0, callbacks=[Terminated(hook), stop], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            accelerator="cpu", devices=1,
        )
        trainer.fit(BoringModel())
        assert trainer.state.finished and trainer.global_step == 1


ended = {}
for hook in sys.argv[2:]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        train(Path(sys.argv[1]), hook)
    except SystemExit as end:
        ended[hook] = end.code
    assert signal.getsignal(signal.SIGTERM) == before
print(json.dumps(ended))
"""


def test_a_sigterm_from_the_start_to_the_last_step_lets_the_last_epoch_end_and_is_143(tmp_path: Path) -> None:
    words = [sys.executable, "-c", TRAININGS, str(tmp_path), *HOOKS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(HOOKS, 143)
