"""Turn a time budget into a length of training by timing a few steps.

The length is a number of epochs; where not even one fits, it is a number of steps of one epoch, and where validating every
case would eat the budget, a number of cases. All of it is kept in the run's folder, so that a resumed run has the first
run's learning-rate schedule.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from medseg.config import read_json
from medseg.errors import BundleError
from medseg.inference.windows.places import per_axis, window_size, window_starts
from medseg.io.atomic import write_json
from medseg.layout import RunFolder

from .datamodule import SegmentationData, collate
from .module import SegmentationModule, scales_of
from .shares import scales_in_parts

log = logging.getLogger(__name__)
PROBE_STEPS = 6
WARM_STEPS = 2
# The probe itself stops after this share of the budget, with two steps at least.
PROBE_SHARE = 0.1
# Left for writing weights, for the machine being busier later than during the probe, and for start-up of the loops.
RESERVE = 0.06
# One validation takes at most this share of what is left; beyond it fewer cases are validated.
VALIDATION_SHARE = 0.3
# With fewer planned epochs than this the training is cut into shorter ones, after each of which it is timed again.
FEW, PARTS, LEAST_STEPS = 4, 8, 4


@dataclass(frozen=True)
class Length:
    """What fits into a budget.

    Args:
        budget_s: what was asked for, in seconds.
        step_s: of a training step, as timed.
        validation_s: of one validation of `validation_cases` cases, as timed on one window.
        max_epochs: epochs.
        steps_per_epoch: steps of each, fewer than planned only where one planned epoch is too long; None for all.
        validation_cases: cases of a validation, the first ones of the fold; None for all.
        val_interval: epochs between validations where epochs are shorter than planned; None for the planned number.
    """

    budget_s: float
    step_s: float
    validation_s: float
    max_epochs: int
    steps_per_epoch: int | None = None
    validation_cases: int | None = None
    val_interval: int | None = None


def fit_into_budget(
    budget_s: float,
    module: SegmentationModule,
    data: SegmentationData,
    trainer: pl.Trainer,
    folder: Path,
    *,
    started: float,
) -> Length:
    """Time a few steps, decide the length, note it in the run's folder, and set the trainer to it.

    Args:
        budget_s: seconds counted from `started` (of `time.monotonic`), preprocessing, probe and validations included.
        module, data, trainer: what will be trained.
        folder: of the run; an earlier note there (of a resumed run) counts, and nothing is timed.
        started: when the clock was started.

    Raises:
        BundleError: the note of the earlier run cannot be read.
    """
    record = RunFolder(folder).budget
    if record.is_file():
        return keep_to_recorded(trainer, folder)
    step_s = _time_steps(module, data, trainer, PROBE_SHARE * budget_s)
    case_s = _time_validation(module, data, trainer)
    left = budget_s * (1 - RESERVE) - (time.monotonic() - started)
    steps = len(data.train_dataset) // data.batch_size
    length = choose_length(
        budget_s, left, step_s=step_s, steps=steps, case_s=case_s, interval=trainer.check_val_every_n_epoch or 1
    )
    if trainer.is_global_zero:
        write_json(record, asdict(length))
    log.info(
        "budget of %.0f s: a step takes %.2f s, a validation of %d cases %.0f s, so epochs: %d, steps of each: %d",
        budget_s, step_s, length.validation_cases, length.validation_s, length.max_epochs, length.steps_per_epoch,
    )  # fmt: skip
    set_length(trainer, length)
    return length


def keep_to_recorded(trainer: pl.Trainer, folder: Path) -> Length:
    """Set the trainer to the length that the run's folder notes.

    Raises:
        BundleError: the note cannot be read.
    """
    try:
        length = Length(**read_json(RunFolder(folder).budget))
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(
            f"{RunFolder(folder).budget}: cannot be read as the length of this training ({error}); train without --resume."
        ) from error
    set_length(trainer, length)
    return length


def choose_length(
    budget_s: float, left: float, *, step_s: float, steps: int, case_s: Sequence[float], interval: int
) -> Length:
    """The length that fits into `left` of `budget_s` seconds; always a step and a validated case.

    Args:
        budget_s: what was asked for.
        left: seconds that preparation has left of it.
        step_s: of a training step.
        steps: per epoch, as planned.
        case_s: seconds of validating each case.
        interval: epochs between validations; the last epoch is always validated.
    """
    cases, validation_s = len(case_s), sum(case_s)
    while cases > 1 and validation_s > VALIDATION_SHARE * left:
        cases -= 1
        validation_s -= case_s[cases]
    training_s = left - validation_s
    epochs = int(training_s / (steps * step_s + validation_s / interval))
    if epochs >= FEW:
        return Length(budget_s, step_s, validation_s, epochs, steps, cases)
    whole = max(1, int((training_s - epochs // interval * validation_s) / step_s))
    parts = max(1, min(PARTS, whole // LEAST_STEPS))
    short = max(1, min(steps, whole // parts))
    # as often as planned, but once at least
    between = parts if epochs <= interval else max(1, round(interval * steps / short))
    return Length(budget_s, step_s, validation_s, max(1, whole // short), short, cases, between)


def set_length(trainer: pl.Trainer, length: Length) -> None:
    """Let a trainer train as long."""
    trainer.fit_loop.max_epochs = length.max_epochs
    if length.steps_per_epoch is not None:
        trainer.limit_train_batches = length.steps_per_epoch
    if length.val_interval is not None:
        trainer.check_val_every_n_epoch = length.val_interval
    if length.validation_cases is not None:
        trainer.limit_val_batches = -(-length.validation_cases // trainer.world_size)


def _batch(data: SegmentationData, number: int) -> dict[str, Any]:
    samples = data.share().samples  # what the other processes read and compute at the same time takes no longer
    first = number * samples % max(1, len(data.train_dataset) - samples + 1)
    return collate([data.train_dataset[first + offset] for offset in range(samples)])


def _time_steps(module: SegmentationModule, data: SegmentationData, trainer: pl.Trainer, most_s: float) -> float:
    """Median seconds of a step (reading, forward, backward) on a copy of the network, so that training starts untouched."""
    device, share = trainer.strategy.root_device, data.share(module.micro_batch_size)
    network = copy.deepcopy(module.network).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)
    seconds: list[float] = []
    began = time.monotonic()
    for number in range(WARM_STEPS + PROBE_STEPS):
        begin = time.monotonic()
        if number >= 2 and begin - began > most_s:
            break
        batch = _batch(data, number)
        if "box" in batch:
            batch = data.on_after_batch_transfer({**batch, "box": [box.to(device) for box in batch["box"]]}, 0)
        with module.at("a timed training step", batch):
            with trainer.precision_plugin.forward_context():
                scales = scales_in_parts(network, batch["image"].to(device), share, scales_of, seed=number)
            loss = module.loss([scale.float() for scale in scales], batch["label"].to(device))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - begin)
    timed = sorted(seconds[WARM_STEPS:] or seconds[-1:])
    return timed[len(timed) // 2]


def _time_validation(module: SegmentationModule, data: SegmentationData, trainer: pl.Trainer) -> list[float]:
    """Seconds of validating each case of this process: one window is timed, and the windows of each case are counted."""
    cases = data.validation_dataset
    if not len(cases):
        return []
    device = trainer.strategy.root_device
    network = copy.deepcopy(module.network).to(device).eval()
    image = cases[0]["image"]
    roi_size, _ = _window(module.inferer, image.shape[1:])
    window = image[(slice(None), *(slice(0, size) for size in roi_size))][None].to(device)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for _ in range(2):  # the first one is slower
            begin = time.monotonic()
            module.inferer(window, network)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            window_s = time.monotonic() - begin
    shapes = [cases.shape(number) for number in range(0, len(cases), max(1, trainer.world_size))]
    return [window_s * _count_windows(module.inferer, shape) for shape in shapes]


def _window(inferer: object, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Extent and overlap of the windows in a volume; a network of slices has windows of one slice."""
    roi_size, overlap = getattr(inferer, "roi_size", None), getattr(inferer, "overlap", 0.5)
    if isinstance(roi_size, list | tuple) and len(roi_size) == 2 and len(shape) == 3:
        return (*window_size(roi_size, shape[:2]), 1), (*per_axis(overlap, 2, "overlap"), 0.0)
    return window_size(roi_size or 0, shape), tuple(per_axis(overlap, len(shape), "overlap"))


def _count_windows(inferer: object, shape: Sequence[int]) -> int:
    roi_size, overlap = _window(inferer, shape)
    padded = [max(size, roi) for size, roi in zip(shape, roi_size, strict=True)]
    return len(window_starts(padded, roi_size, overlap))
