"""Train one fold of a bundle: what train.json's `run` calls."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from medseg.config import read_json
from medseg.errors import BundleError, ConfigError, MedsegError, ResourceError
from medseg.interruption import deferred
from medseg.io.atomic import remove_leftovers, write_json
from medseg.layout import Layout, RunFolder
from medseg.ranks import is_helper, several_started
from medseg.selection.averaging import average_finished
from medseg.tracking.manifest import make_manifest
from medseg.tracking.privacy import without_paths
from medseg.tracking.run_settings import run_settings

from .budget import Length, fit_into_budget, keep_to_recorded, set_length
from .budget_keeper import KeepBudget, missed
from .callbacks import defined_metrics
from .checkpoint_io import AtomicCheckpointIO, progress_of, write_weights
from .data_record import changes_since, data_hash
from .datamodule import SegmentationData
from .early_stop import EarlyStop
from .initialize import load_matching
from .module import SegmentationModule
from .one_training import Together, explain_lost
from .processes import claim_run, end_with_starter, of_process
from .run_files import draw, kept_log, note_length
from .stop import StopOnSignal
from .trainer import run_folder

log = logging.getLogger(__name__)


def run_fit(
    trainer: pl.Trainer,
    module: SegmentationModule,
    data: SegmentationData,
    *,
    bundle_root: str = ".",
    fold: int = 0,
    resume: bool = False,
    budget_s: float | None = None,
    pretrained: str | None = None,
    partial: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit, then write the fold's weights, and `models/model.pt` for predict.

    Args:
        trainer, module, data: built from train.json.
        bundle_root, fold: where results go.
        resume: continue from the fold's `last.ckpt`; without one, start.
        budget_s: stop after about this many seconds: a timed probe turns it into a number of epochs, or of steps where not
            even one epoch fits; it is recorded, so that a resumed run keeps its learning-rate schedule.
        pretrained: a state dict to start from.
        partial: beginnings of names of what may stay as made where it does not fit; it is listed.

    Returns:
        The last metrics, by name; one that is not defined is left out.

    Raises:
        BundleError: the checkpoint belongs to another network.
        ResourceError: the run's folder cannot be written, another process trains this fold, or a loader process died; the
            case it read is named.
    """
    folder = run_folder(bundle_root, fold)
    end_with_starter()
    writes = trainer.is_global_zero and not is_helper()
    with of_process(), claim_run(bundle_root, fold), kept_log(folder, writes=writes):
        start = Start(resume, budget_s, pretrained, tuple(partial))
        return _run(trainer, module, data, start, bundle_root=bundle_root, fold=fold)


@dataclass(frozen=True)
class Start:
    """How a run begins: see `run_fit`."""

    resume: bool
    budget_s: float | None
    pretrained: str | None
    partial: tuple[str, ...] = ()


def _run(
    trainer: pl.Trainer,
    module: SegmentationModule,
    data: SegmentationData,
    start: Start,
    *,
    bundle_root: str,
    fold: int,
) -> dict[str, Any]:
    started = time.monotonic()
    data.trainer = trainer  # tells the data's share of this process before Lightning does
    folder = run_folder(bundle_root, fold)
    checkpoint = RunFolder(folder).checkpoint
    if start.resume and checkpoint.is_file() and not is_helper():
        start = _start_anew_on_other_data(start, trainer, data, folder)
    resuming = start.resume and checkpoint.is_file()
    if start.resume and not resuming:
        log.info("fold %d: nothing to resume in %s, starting", fold, folder)
    loaded = None
    if start.pretrained is not None and not resuming:  # before anything of an earlier run is moved: weights may not fit
        loaded = load_matching(module.network, Path(start.pretrained), partial=start.partial)
    if trainer.is_global_zero:
        prepare_run_folder(folder, keep=start.resume)
        for place in (folder, *weights_folders(bundle_root, fold)):
            remove_leftovers(place)  # of a run that was killed while it wrote
    if resuming:
        data.first_epoch, data.first_step = progress_of(checkpoint)
    _prepare_data(trainer, data, folder)
    if loaded is not None and trainer.is_global_zero:
        write_json(RunFolder(folder).initialization, loaded)
    keepers = [callback for callback in trainer.callbacks if isinstance(callback, KeepBudget)]  # type: ignore[attr-defined]
    for keeper in keepers:
        keeper.started = started

    def take(found: Length) -> None:
        set_length(trainer, found)
        for keeper in keepers:
            keeper.begin(found.budget_s, found.validation_s, trainer.check_val_every_n_epoch or 1)

    length: Length | None = None
    if resuming and RunFolder(folder).budget.is_file():
        keep_to_recorded(trainer, folder)  # whatever --budget says now: another length is another schedule
    elif start.budget_s is not None and trainer.is_global_zero:  # one clock decides for all processes
        length = fit_into_budget(start.budget_s, module, data, trainer, folder, started=started)
        take(length)
    trainer.callbacks.insert(0, Together(bundle_root, data, length, take))  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        note_length(folder, trainer, steps_per_epoch(trainer, data))
        _record(trainer, module, data, folder, resuming=resuming)
    _train(trainer, module, data, checkpoint if resuming else None)
    metrics = defined_metrics(trainer)
    state = trainer.strategy.lightning_module_state_dict()  # gathered from all, where each holds a share
    if resuming and (kept := _nothing_was_left(checkpoint, trainer)) is not None:
        metrics, state = last_metrics(folder), kept
    if trainer.is_global_zero:
        note_length(folder, trainer, steps_per_epoch(trainer, data))
        if length is not None:
            why = missed(length, time.monotonic() - started, trainer)
            if why is not None:
                log.warning("fold %d %s", fold, why)
        _write_results(trainer, _of_network(state), bundle_root, fold, metrics, seconds=time.monotonic() - started)
    return metrics


def _start_anew_on_other_data(start: Start, trainer: pl.Trainer, data: SegmentationData, folder: Path) -> Start:
    """A run goes on with the data that it was started with; with others it begins again, and what it had is set aside.

    Raises:
        ConfigError: several processes train together: they have looked at the checkpoint already.
    """
    data.prepare_data()  # errors of a file are told by its case
    changed = changes_since(folder, data.record)
    if not changed:
        return start
    what = f"{folder.name}: the data are other ones than this run was started with: {changed}"
    if several_started():
        raise ConfigError(f"{what}; train without --resume, or restore the data")
    log.warning("%s; it begins again, and what it had is kept beside it", what)
    config = RunFolder(folder).config
    settings = read_json(config) if config.is_file() else None
    prepare_run_folder(folder, keep=False)
    if settings is not None:
        write_json(config, settings)
    if hasattr(trainer.logger, "begin_anew"):  # the record in MLflow, which is not imported to be asked for
        trainer.logger.begin_anew()
    return replace(start, resume=False)


def _prepare_data(trainer: pl.Trainer, data: SegmentationData, folder: Path) -> None:
    """Preprocess what is missing, open the store, and note what was found in `preparation.json`."""
    data.prepare_data()
    data.setup()
    data.augment_on(trainer.strategy.root_device)
    if trainer.is_global_zero:
        parts = {"train": data.train_dataset.report(), "val": data.validation_dataset.report()}
        write_json(RunFolder(folder).preparation, parts)


def _train(trainer: pl.Trainer, module: SegmentationModule, data: SegmentationData, checkpoint: Path | None) -> None:
    """Lightning's training; its errors are told by case or checkpoint where that is known."""
    stops = [callback for callback in trainer.callbacks if isinstance(callback, StopOnSignal)]  # type: ignore[attr-defined]
    try:
        with deferred() as deferral:
            for stop in stops:
                stop.deferral = deferral
            trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    except Exception as error:
        told = data.explain(error) or explain_lost(error)
        if told is None and checkpoint is not None and "loading state_dict" in str(error):
            told = BundleError(
                f"{checkpoint}: belongs to another network than train.json describes; restore the settings it was trained "
                "with, or train without --resume."
            )
        if told is None and not isinstance(error, MedsegError):
            told = module.explain(error)
        if told is None:
            raise
        raise told from error


def _write_results(
    trainer: pl.Trainer,
    state: dict[str, torch.Tensor],
    bundle_root: str | Path,
    fold: int,
    metrics: dict[str, float],
    *,
    seconds: float,
) -> None:
    """Weights of the fold, result.json, and `models/model.pt` for predict, which averages every finished fold."""
    layout = Layout(Path(bundle_root))
    write_weights(state, layout.fold_weights(fold))
    facts: dict[str, Any] = {"seconds": round(seconds, 1), "steps": trainer.global_step, **metrics}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        facts |= callback.facts() if isinstance(callback, EarlyStop) else {}
    write_json(layout.run(fold).result, facts)
    draw(layout.run_folder(fold))
    average_finished(layout)
    log.info("fold %d: %d steps in %.0f s%s", fold, trainer.global_step, facts["seconds"], _dice_text(metrics))


def _of_network(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's part of the module's state."""
    own = "network."
    return {name.removeprefix(own): tensor for name, tensor in state.items() if name.startswith(own)}


def _nothing_was_left(checkpoint: Path, trainer: pl.Trainer) -> dict[str, torch.Tensor] | None:
    """The averaged weights out of the checkpoint of a run that had been killed after its last step; None for any other run.

    Lightning puts the average into the module at the end of a training, which does not take place then.
    """
    saved = AtomicCheckpointIO().load_checkpoint(checkpoint, map_location="cpu")
    return saved["state_dict"] if trainer.global_step == saved["global_step"] else None


def last_metrics(folder: Path) -> dict[str, float]:
    """The last value of each metric in a run's `metrics.json`."""
    rows = read_json(RunFolder(folder).metrics)
    merged = {name: value for row in rows for name, value in row.items()}
    return {name: value for name, value in merged.items() if name not in ("epoch", "step", "seconds")}


def _dice_text(metrics: dict[str, float]) -> str:
    return f", validation Dice {metrics['val_dice']:.2f} on the network's grid" if "val_dice" in metrics else ""


def weights_folders(bundle_root: str | Path, fold: int) -> tuple[Path, Path]:
    """Where the weights of a fold go: its own folder, and the one that predict reads."""
    layout = Layout(Path(bundle_root))
    return layout.fold_models(fold), layout.models


def prepare_run_folder(folder: Path, *, keep: bool) -> None:
    """Make the folder of a run; results of an earlier run in it are set aside, never overwritten.

    Args:
        folder: `BUNDLE/runs/fold_N`.
        keep: the earlier run will be continued.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        if not keep and any((folder / name).exists() for name in ("last.ckpt", "metrics.json", "result.json")):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.previous_{number}")).exists():
                number += 1
            shutil.move(str(folder), str(aside))
            log.info("an earlier run of this fold was set aside as %s", aside.name)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written: {error.strerror or error}") from error


def steps_per_epoch(trainer: pl.Trainer, data: SegmentationData) -> int:
    """Steps in an epoch; a short budget allows fewer than planned."""
    steps = len(data.train_dataset) // data.batch_size
    limit = trainer.limit_train_batches
    return min(steps, limit) if isinstance(limit, int) else steps


def _record(
    trainer: pl.Trainer, module: SegmentationModule, data: SegmentationData, folder: Path, *, resuming: bool
) -> None:
    parameters = sum(p.numel() for p in module.network.parameters())
    record = data.record
    if not resuming or not RunFolder(folder).cases.is_file():
        write_json(RunFolder(folder).cases, record)
    manifest = make_manifest(
        seed=module.seed,
        device=str(trainer.strategy.root_device),
        data_hash=data_hash(record),
        precision=str(trainer.precision),
        parameters=parameters,
        training_cases=len(data.train_dataset.cases),
        validation_cases=len(data.validation_dataset.cases),
        max_epochs=trainer.max_epochs,
        steps_per_epoch=steps_per_epoch(trainer, data),
        batch_size=data.batch_size,
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        resumed=resuming,
    )
    run = RunFolder(folder)
    write_json(run.manifest, manifest)
    logger = trainer.logger
    if logger is not None and hasattr(logger, "log_file"):
        settings = run_settings(read_json(run.config)) if run.config.is_file() else {}
        plain = {key: value for key, value in manifest.items() if not isinstance(value, dict)}
        logger.log_once({**settings, **plain})  # type: ignore[attr-defined]
        if run.manifest.is_file():
            logger.log_file(run.manifest)
        if run.config.is_file():
            logger.log_json(run.config.name, without_paths(read_json(run.config)))
