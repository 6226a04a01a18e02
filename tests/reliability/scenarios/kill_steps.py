"""R5, exact places: a training that dies at a chosen step, inside a fold or between two, and is continued.

Crops come from two loader processes, which the undisturbed run has not: neither the kill nor their number may change a bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .base import Outcome, make_data, make_planned
from .kill_fit import fit, result

LOADERS = "num_workers=2"
# Of ten steps, two per epoch: inside an epoch, the first of all, just after a checkpoint, the last one.
STEPS = (3, 0, 6, 9)
FOLDS = ("--fold", "all", "max_epochs=2")


def dies_at(step: int, fold: int = 0) -> Callable[[], None]:
    """For `Child`: the training process kills itself when it begins this step of this fold."""

    def patch() -> None:
        from medseg.training.module import SegmentationModule

        train = SegmentationModule.training_step

        def deadly(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.global_step == step and Path(self.trainer.default_root_dir).name == f"fold_{fold}":
                os.kill(os.getpid(), signal.SIGKILL)
            return train(self, batch, batch_idx)

        SegmentationModule.training_step = deadly  # type: ignore[method-assign]

    return patch


def dies_between_folds() -> None:
    """For `Child`: killed when the first fold is complete and the second has not begun."""
    from medseg.commands import fit as bundle_fit

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    bundle_fit.update_figures = die


def run(times: int, seed: int, folder: Path) -> Outcome:
    """The first `times` of the steps; with more than one the places between folds as well."""
    outcome = Outcome()
    data = make_data(folder / "data")
    pristine = make_planned(folder / "pristine", data)
    _single(outcome, pristine, folder, STEPS[:times])
    if times > 1:
        _folds(outcome, pristine, folder)
    return outcome


def _single(outcome: Outcome, pristine: Path, folder: Path, steps: Sequence[int]) -> None:
    import torch

    shutil.copytree(pristine, folder / "whole")
    undisturbed = fit(folder / "whole").wait()
    assert undisturbed.code == 0, undisturbed.text
    expected, curve = result(folder / "whole")
    for step in steps:
        bundle = folder / f"step_{step}"
        shutil.copytree(pristine, bundle)
        child = fit(bundle, LOADERS, before=dies_at(step)).wait()
        outcome.count("killed at a step", child.code == -signal.SIGKILL)
        child.kill()
        resumed = fit(bundle, LOADERS, "--resume").wait()
        outcome.expect(resumed.code == 0, f"step {step}: --resume ended with {resumed.code}: {resumed.text[-600:]}")
        state, rows = result(bundle)
        same = state.keys() == expected.keys() and all(torch.equal(expected[key], state[key]) for key in expected)
        outcome.expect(same, f"step {step}: weights differ from the undisturbed run's")
        outcome.expect(rows == curve, f"step {step}: curves differ")
        outcome.count("steps resumed to bitwise equal weights", same)


def _folds(outcome: Outcome, pristine: Path, folder: Path) -> None:
    """`--fold all` with MLflow, killed between two folds, then within the third; one parent run with every fold below it."""
    import torch

    whole, bundle = folder / "all_whole", folder / "all"
    for target in (whole, bundle):
        shutil.copytree(pristine, target)
    undisturbed = fit(whole, *FOLDS, tracking=True).wait()
    assert undisturbed.code == 0, undisturbed.text
    for before in (dies_between_folds, dies_at(1, fold=2)):
        child = fit(bundle, *FOLDS, LOADERS, "--resume", before=before, tracking=True).wait()
        outcome.count("folds killed", child.code == -signal.SIGKILL)
        child.kill()
    resumed = fit(bundle, *FOLDS, LOADERS, "--resume", tracking=True).wait()
    outcome.expect(resumed.code == 0, f"--fold all --resume ended with {resumed.code}: {resumed.text[-600:]}")
    for path in sorted(whole.glob("models/fold_*/model.pt")):
        states = [torch.load(root / path.relative_to(whole), weights_only=True) for root in (whole, bundle)]
        same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        outcome.expect(same, f"{path.parent.name}: weights differ from the undisturbed run's")
        outcome.count("folds with bitwise equal weights", same)
    expected, found = (_parents(root / "runs" / "mlflow.db") for root in (whole, bundle))
    outcome.expect(len(expected) == 1 and found == expected, f"MLflow's parents: {found}, expected {expected}")


def _parents(database: Path) -> list[tuple[str, int, float]]:
    """Status, finished children and mean Dice of each parent run."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select p.status, count(distinct c.run_uuid), round(max(m.value), 5) from runs p "
            "join tags t on t.key = 'mlflow.parentRunId' and t.value = p.run_uuid "
            "join runs c on c.run_uuid = t.run_uuid and c.status = 'FINISHED' "
            "join latest_metrics m on m.run_uuid = p.run_uuid and m.key = 'mean_val_dice' group by p.run_uuid"
        )
        return list(rows)
