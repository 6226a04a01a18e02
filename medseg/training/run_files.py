"""What a run leaves for people in `runs/fold_N`: log.txt, progress.png and report.html, beside metrics.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from medseg.config import read_json
from medseg.errors import printable
from medseg.evaluation.report.run_page import curves_picture, write_run_page
from medseg.io.atomic import write_bytes, write_json
from medseg.layout import RunFolder

from .callbacks import defined_metrics

DIGITS = {"train_loss": 4, "val_dice": 2}  # more of a Dice are noise
log = logging.getLogger(__name__)
EVERY_S = 120.0  # between two drawings of the curves


class RunFiles(Callback):
    """A line of log.txt after every epoch; the curves drawn again now and then. To stand behind `Curves`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.drawn = folder, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        shown = {name: value for name, value in defined_metrics(trainer).items() if name in DIGITS}
        figures = "".join(f", {name} {value:.{DIGITS[name]}f}" for name, value in shown.items())
        note(
            self.folder,
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, step {trainer.global_step}{figures}",
        )
        if time.monotonic() - self.drawn > EVERY_S:
            draw(self.folder)
            self.drawn = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            draw(self.folder)  # before the tracking server is given the run's files


def note(folder: Path, sentence: str) -> None:
    """Add a line with the time to the run's log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(sentence)}\n")


class _ToFile(logging.Handler):
    def __init__(self, folder: Path) -> None:
        super().__init__(logging.INFO)
        self.folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
            note(self.folder, level + record.getMessage())
        except Exception:
            self.handleError(record)


@contextmanager
def kept_log(folder: Path, *, writes: bool) -> Iterator[None]:
    """Write what medseg says in this block into log.txt too, whatever the screen shows; errors end with their sentence."""
    if not writes:
        yield
        return
    logger, handler = logging.getLogger("medseg"), _ToFile(folder)
    level = logger.level
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
        for other in (*logger.handlers, *logging.getLogger().handlers):
            other.addFilter(_as_before(level or logging.WARNING))
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        note(folder, f"ended: {type(error).__name__}: {error}")
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for other in (*logger.handlers, *logging.getLogger().handlers):
            for each in [each for each in other.filters if isinstance(each, _as_before)]:
                other.removeFilter(each)


class _as_before(logging.Filter):
    """Keeps from the screen what its level kept from it before."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.level or not record.name.startswith("medseg")


def draw(folder: Path) -> None:
    """Write progress.png and report.html from metrics.json, unless they are newer than it."""
    run = RunFolder(folder)
    if not run.metrics.is_file():
        return
    if run.report.is_file() and run.report.stat().st_mtime_ns >= run.metrics.stat().st_mtime_ns:
        return
    try:
        rows = read_json(run.metrics)
        manifest = read_json(run.manifest) if run.manifest.is_file() else {}
        picture = curves_picture(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: the curves cannot be drawn: %s", run.metrics, error)
        return
    write_bytes(run.progress, picture)
    write_run_page(run.report, folder.name, rows, manifest)


def note_length(folder: Path, trainer: pl.Trainer, steps: int) -> None:
    """Write into config.json the length that runs, where a budget made it another one than train.json asked for."""
    path = RunFolder(folder).config
    if not path.is_file():
        return
    config = read_json(path)
    ran: dict[str, Any] = {"max_epochs": trainer.max_epochs, "steps_per_epoch": steps}
    limit = trainer.limit_val_batches
    changed = {**config, **{key: value for key, value in ran.items() if key in config}}
    if isinstance(limit, int) and isinstance(config.get("train", {}).get("trainer"), dict):
        changed["train"] = {**config["train"], "trainer": {**config["train"]["trainer"], "limit_val_batches": limit}}
    if changed != config:
        write_json(path, changed)
    manifest = RunFolder(folder).manifest
    if manifest.is_file() and (known := read_json(manifest)).get("max_epochs") != trainer.max_epochs:
        write_json(manifest, {**known, "max_epochs": trainer.max_epochs})
