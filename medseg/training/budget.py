"""Turn a time budget into a number of epochs by timing a few steps."""

from __future__ import annotations

import copy
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from medseg.io.atomic import write_json

from .datamodule import SegmentationData, collate
from .module import SegmentationModule

log = logging.getLogger(__name__)
FILE = "budget.json"
PROBE_STEPS = 6
WARM_STEPS = 2
# Left for writing weights, for the machine being busier later than during the probe, and for start-up of the loops.
RESERVE = 0.06


def epochs_within(
    budget_s: float,
    module: SegmentationModule,
    data: SegmentationData,
    trainer: pl.Trainer,
    folder: Path,
    *,
    started: float,
) -> int:
    """Epochs that fit in `budget_s` seconds counted from `started` (of `time.monotonic`), validations included.

    The number is kept in the run's folder: a resumed run reads it there, so that its schedule is the first run's.
    """
    record = folder / FILE
    if record.is_file():
        return int(json.loads(record.read_text(encoding="utf-8"))["max_epochs"])
    step_s = _time_steps(module, data, trainer)
    validation_s = _time_validation(module, data, trainer)
    steps = len(data.train_dataset) // data.batch_size // trainer.world_size
    interval = trainer.check_val_every_n_epoch or 1
    left = budget_s * (1 - RESERVE) - (time.monotonic() - started) - validation_s
    epochs = max(1, int(left / (steps * step_s + validation_s / interval)))
    facts = {"budget_s": budget_s, "step_s": step_s, "validation_s": validation_s, "max_epochs": epochs}
    write_json(record, facts)
    log.info(
        "budget of %.0f s: a step takes %.2f s, a validation %.0f s, so %d epochs of %d steps",
        budget_s, step_s, validation_s, epochs, steps,
    )  # fmt: skip
    return epochs


def _batches(data: SegmentationData, count: int) -> list[dict[str, Any]]:
    size = data.batch_size
    items = [[data.train_dataset[start * size + offset] for offset in range(size)] for start in range(count)]
    return [collate(batch) for batch in items]


def _time_steps(module: SegmentationModule, data: SegmentationData, trainer: pl.Trainer) -> float:
    """Median seconds of a step (reading, forward, backward) on a copy of the network, so that training starts untouched."""
    device = trainer.strategy.root_device
    network = copy.deepcopy(module.network).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)
    seconds = []
    for number in range(WARM_STEPS + PROBE_STEPS):
        begin = time.monotonic()
        batch = _batches(data, 1)[0]
        if "box" in batch:
            batch = data.on_after_batch_transfer({**batch, "box": [box.to(device) for box in batch["box"]]}, 0)
        with trainer.precision_plugin.forward_context():
            scales = network.forward_scales(batch["image"].to(device))  # type: ignore[operator]
        loss = module.loss([scale.float() for scale in scales], batch["label"].to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_STEPS:
            seconds.append(time.monotonic() - begin)
    return sorted(seconds)[len(seconds) // 2]


def _time_validation(module: SegmentationModule, data: SegmentationData, trainer: pl.Trainer) -> float:
    """Seconds of one validation, from its first case."""
    cases = data.validation_dataset
    if not len(cases):
        return 0.0
    device = trainer.strategy.root_device
    network = copy.deepcopy(module.network).to(device).eval()
    begin = time.monotonic()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        module.inferer(cases[0]["image"][None].to(device), network)
    return (time.monotonic() - begin) * len(cases) / max(1, trainer.world_size)
