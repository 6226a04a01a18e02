"""Trainings beside each other and beside a tracking store that fails: all folds at once on a fresh bundle, a second start, faults.

Nothing of it may end a training, and what a store did not take is kept and sent later.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .base import Child, Outcome, make_data, make_planned, temporary_files

FOLDS = 3
PARTS = ("folds", "tracking")
SHORT = (
    "max_epochs=2",
    "steps_per_epoch=1",
    "batch_size=2",
    "val_interval=1",
    "num_workers=0",
    "--quiet",
    "--device",
    "cpu",
)


def run(times: int, seed: int, folder: Path, parts: Sequence[str] = PARTS) -> Outcome:
    """`folds`: started `times` times at once, and one of them twice; `tracking`: each fault of the store."""
    outcome = Outcome()
    pristine = make_planned(folder / "pristine", make_data(folder / "data"))
    for number in range(times if "folds" in parts else 0):
        _folds_at_once(outcome, pristine, folder / f"at_once_{number}")
    if "folds" in parts:
        _second_start(outcome, pristine, folder / "twice")
    for name, fault in FAULTS.items() if "tracking" in parts else ():
        _faulty_store(outcome, pristine, folder / name, name, fault)
    return outcome


def _fit(
    bundle: Path, fold: int, *more: str, store: Path | None = None, before: Callable[[], None] | None = None
) -> Child:
    def prepare() -> None:
        import os

        if store is not None:
            os.environ["MEDSEG_STORE"] = str(store)
        if before is not None:
            before()

    return Child(["fit", str(bundle), "--fold", str(fold), *SHORT, *more], bundle.parent / f"log_{fold}", prepare)


def _folds_at_once(outcome: Outcome, pristine: Path, folder: Path) -> None:
    bundle = folder / "bundle"
    shutil.copytree(pristine, bundle)
    children = [_fit(bundle, fold, store=folder / "store") for fold in range(FOLDS)]
    for fold, child in enumerate(children):
        ended = child.wait()
        outcome.expect(ended.code == 0, f"{folder.name}, fold {fold}: ended with {ended.code}: {ended.text[-600:]}")
        outcome.count("folds started at once")
    with sqlite3.connect(bundle / "runs" / "mlflow.db") as store:
        runs = store.execute("select count(*) from runs where status = 'FINISHED'").fetchone()[0]
    outcome.expect(runs == FOLDS, f"{folder.name}: {runs} finished runs are recorded, expected {FOLDS}")
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    rows = [fold for fold in range(FOLDS) if f"\n| {fold} | " in card]
    outcome.expect(len(rows) == FOLDS, f"{folder.name}: the card has rows of the folds {rows}")
    outcome.expect(not temporary_files(folder), f"{folder.name}: left {temporary_files(folder)[:3]}")


def _slow_steps() -> None:
    from medseg.training.module import SegmentationModule

    step = SegmentationModule.training_step

    def slowly(self: Any, batch: Any, batch_idx: int) -> Any:
        time.sleep(2.0)
        return step(self, batch, batch_idx)

    SegmentationModule.training_step = slowly  # type: ignore[method-assign]


def _second_start(outcome: Outcome, pristine: Path, folder: Path) -> None:
    bundle = folder / "bundle"
    shutil.copytree(pristine, bundle)
    first = _fit(bundle, 0, "train::trainer::tracking=false", before=_slow_steps)
    claim = bundle / "runs" / ".fold_0.lock"
    while first.running() and not (claim.is_file() and claim.read_text()):
        time.sleep(0.01)
    words = ["fit", str(bundle), "--fold", "0", *SHORT, "train::trainer::tracking=false"]
    second = Child(words, folder / "second").wait()
    outcome.expect(second.code == 1, f"a second start ended with {second.code}: {second.text[-600:]}")
    outcome.expect(
        f"is being trained by process {first.pid} on" in second.text, f"a second start said: {second.text[-600:]}"
    )
    outcome.expect(first.wait().code == 0, f"the first start ended with {first.code}: {first.text[-600:]}")
    outcome.count("second starts refused by host and process")


def _locked(bundle: Path) -> None:
    """Another program holds the store for good."""
    from medseg.tracking import own_store

    own_store.BUSY_S = 0.2
    own_store.ensure_store(bundle / "runs")
    locker = sqlite3.connect(own_store.database(bundle / "runs"), check_same_thread=False)
    locker.execute("begin exclusive")
    _HELD.append(locker)


def _full(bundle: Path) -> None:
    from medseg.tracking.mlflow_run import MlflowRun

    def full(self: Any, entry: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    MlflowRun.send = full  # type: ignore[method-assign]


def _vanished(bundle: Path) -> None:
    """The store is removed after the first epoch."""
    from medseg.training.callbacks import LastCheckpoint

    end = LastCheckpoint.on_train_epoch_end

    def remove(self: Any, trainer: Any, module: Any) -> None:
        end(self, trainer, module)
        if trainer.current_epoch == 0:
            trainer.logger.outbox.flush(trainer.logger.patience)
            (bundle / "runs" / "mlflow.db").unlink()

    LastCheckpoint.on_train_epoch_end = remove  # type: ignore[method-assign]


def _no_server(bundle: Path) -> None:
    import os

    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"


_HELD: list[Any] = []
FAULTS: dict[str, Callable[[Path], None]] = {
    "locked": _locked, "full": _full, "vanished": _vanished, "no_server": _no_server,
}  # fmt: skip


def _impatient() -> None:
    from medseg.tracking import mlflow_logger
    from medseg.tracking.outbox import Patience

    mlflow_logger.OWN_STORE = mlflow_logger.SERVER = Patience(1.0, 60.0)


def _faulty_store(outcome: Outcome, pristine: Path, folder: Path, name: str, fault: Callable[[Path], None]) -> None:
    bundle = folder / "bundle"
    shutil.copytree(pristine, bundle)

    def before() -> None:
        _impatient()
        fault(bundle)

    ended = _fit(bundle, 0, before=before).wait()
    outcome.expect(ended.code == 0, f"{name}: fit ended with {ended.code}: {ended.text[-600:]}")
    outcome.expect((bundle / "models" / "model.pt").is_file(), f"{name}: no weights")
    kept = bundle / "runs" / "fold_0" / "untracked.json"
    if name == "vanished":
        outcome.expect(not kept.exists(), f"{name}: a store that was made anew did not take everything")
    else:
        outcome.expect("training goes on" in ended.text, f"{name}: nothing was said: {ended.text[-600:]}")
        entries = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
        outcome.expect(any(entry["kind"] == "metrics" for entry in entries), f"{name}: nothing was kept for later")
        again = _fit(bundle, 0, "--resume").wait()
        outcome.expect(
            again.code == 0 and not kept.exists(), f"{name}: --resume did not send what was kept: {again.text[-600:]}"
        )
        outcome.count("records sent later")
    curve = _points(bundle / "runs" / "mlflow.db")
    outcome.expect(curve == 2, f"{name}: {curve} points of the curve are recorded, expected 2")
    outcome.count("faults of the tracking store")


def _points(store: Path) -> int:
    """Points of the recorded curve."""
    with sqlite3.connect(store) as connection:
        try:
            question = "select count(distinct step) from metrics where key = 'train_loss'"
            return int(connection.execute(question).fetchone()[0])
        except sqlite3.Error:
            return -1
