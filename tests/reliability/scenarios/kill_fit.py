"""R5: `medseg fit` is killed at random times, at least 30 % of them inside a checkpoint write, and continued.

Every continued run must end with weights that are bitwise equal to those of a run that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from .base import Child, Outcome, broken_files, delayed_halves, make_data, make_planned, temporary_files

SETTINGS = ["max_epochs=5", "steps_per_epoch=2", "batch_size=2", "val_interval=2", "num_workers=0", "--quiet"]
PAUSE_S = 0.3


def fit(bundle: Path, *more: str, before: Any = None, tracking: bool = False) -> Child:
    words = ["fit", str(bundle), *SETTINGS, *more]
    return Child(words if tracking else [*words, "train::trainer::tracking=false"], bundle.parent / "log", before)


def result(bundle: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Weights and curve of a finished run, without its times."""
    import torch

    state = torch.load(bundle / "models" / "fold_0" / "model.pt", weights_only=True)
    rows = json.loads((bundle / "runs" / "fold_0" / "metrics.json").read_text(encoding="utf-8"))
    return state, [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def wait_for_checkpoint(child: Child, folder: Path, number: int) -> bool:
    """Wait until the command writes its `number`-th checkpoint; False when it ended before."""
    seen: set[str] = set()
    while child.running():
        # the name of each half-written file is another one
        seen |= {path.name for path in folder.glob(".medseg-tmp-*last.ckpt")} if folder.exists() else set()
        if len(seen) >= number:
            return True
        time.sleep(0.001)
    return False


def killed_before_the_weights() -> None:
    """For `Child`: SIGKILL after the last checkpoint, before the weights are written; a moment that chance rarely meets."""
    from medseg.training import fit as training

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    training.write_weights = die


def run(times: int, seed: int, folder: Path) -> Outcome:
    import torch

    outcome, source = Outcome(), random.Random(seed)
    data = make_data(folder / "data")
    pristine = make_planned(folder / "pristine", data)
    shutil.copytree(pristine, folder / "whole")
    whole = fit(folder / "whole").wait()
    assert whole.code == 0, whole.text
    expected, curve = result(folder / "whole")
    inside = max(1, round(0.4 * times))
    for trial in range(times):
        bundle = folder / "trial"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(pristine, bundle)
        tracking = trial % 4 == 3 and trial < times - 1
        if trial == times - 1:
            child = fit(bundle, before=killed_before_the_weights).wait()
            outcome.count("killed between last checkpoint and weights", child.code == -signal.SIGKILL)
        elif trial < inside:
            child = fit(bundle, before=delayed_halves(PAUSE_S), tracking=tracking)
            wait_for_checkpoint(child, bundle / "runs" / "fold_0", source.randint(1, 4))
            time.sleep(source.uniform(0, PAUSE_S))
        else:
            child = fit(bundle, tracking=tracking)
            time.sleep(source.uniform(0, (2.0 if tracking else 1.0) * whole.seconds))
        outcome.count("killed" if child.running() or child.code == -signal.SIGKILL else "ended before the kill")
        child.kill()
        child.wait()
        outcome.count("inside a checkpoint write", bool([n for n in temporary_files(bundle) if "last.ckpt" in n]))
        name = f"trial {trial}{' with MLflow' if tracking else ''}"
        outcome.expect(not (bad := broken_files(bundle)), f"{name}: broken after the kill: {bad}")
        resumed = fit(bundle, "--resume", tracking=tracking).wait()
        if resumed.code != 0:
            outcome.expect(False, f"{name}: --resume ended with {resumed.code}: {resumed.text[-600:]}")
            continue
        state, rows = result(bundle)
        same = all(torch.equal(expected[key], state[key]) for key in expected) and state.keys() == expected.keys()
        outcome.expect(same, f"{name}: weights differ from the undisturbed run's")
        outcome.expect(rows == curve, f"{name}: curves differ: {rows} {curve}")
        outcome.expect(not (left := temporary_files(bundle)), f"{name}: left {left}")
        outcome.count("resumed to bitwise equal weights", same)
    again = fit(folder / "trial", "--resume").wait()
    outcome.expect(again.code == 0 and again.seconds < whole.seconds, "a finished fold was trained again")
    return outcome
