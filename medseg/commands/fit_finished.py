"""Folds that are finished when a training is continued: whether they may stay as they are, and what is still to be recorded."""

from __future__ import annotations

import logging
from pathlib import Path

from medseg.config import read_json
from medseg.layout import Layout
from medseg.planning.folds import list_cases
from medseg.tracking.run_record import read_run_id

log = logging.getLogger(__name__)


def is_finished(folder: Path, fold: int) -> bool:
    """Whether a fold has its result and its weights."""
    layout = Layout(folder)
    return layout.run(fold).result.is_file() and layout.fold_weights(fold).is_file()


def learnt_from_other_data(folder: Path, fold: int) -> bool:
    """Whether the data of a finished fold have changed since; it is trained again then."""
    from medseg.training.data_record import changes_since, record_of

    run = Layout(folder).run(fold)
    if not run.cases.is_file():
        return False
    try:
        config = read_json(run.config)
        source = config.get("data"), str(config["dataset_dir"]), folder, fold
        gaps = str(config.get("missing_channels", "error"))
        train, val = (list_cases(part, *source, missing_channels=gaps) for part in ("train", "val"))
        changed = changes_since(run.folder, record_of(train, val))
    except (OSError, ValueError, KeyError, AttributeError) as error:  # the data may have been put away
        log.info("fold %d: its data cannot be looked at (%s)", fold, error)
        return False
    if changed:
        log.warning("fold %d is finished, but the data are other ones now: %s; it is trained again", fold, changed)
    return bool(changed)


def send_leftovers(folder: Path, fold: int) -> None:
    """What the tracking store did not take when a finished fold was trained."""
    layout = Layout(folder)
    if layout.run(fold).untracked.is_file():
        from medseg.tracking import mlflow_logger

        settings = read_json(layout.run(fold).config)["train"]["trainer"]
        run = layout.run_folder(fold)
        mlflow_logger.send_leftovers(layout.runs, settings["experiment"], run.name, read_run_id(run))
