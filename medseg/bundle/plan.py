"""`medseg plan`: measure a dataset, decide, and write the bundle that holds every decision."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.config import choose_device
from medseg.datasets import open_dataset
from medseg.errors import BundleError
from medseg.networks import build_network
from medseg.planning.fingerprint import measure
from medseg.planning.plan import Plan
from medseg.planning.planner import make_plan
from medseg.planning.splits import check_splits, make_splits
from medseg.training.progress import progress_bar

from .layout import Layout
from .write import check_name, write_bundle

log = logging.getLogger(__name__)


def plan_bundle(
    data: Path,
    output: Path,
    *,
    preset: str = "mambavision",
    size: str = "nano",
    memory_bytes: float | None = None,
    folds: int = 5,
    device: str = "auto",
) -> Plan:
    """Plan a dataset and write the bundle.

    Args:
        data: the dataset's folder, in a layout of `medseg.datasets.DATASETS`.
        output: the bundle's folder; an existing bundle with weights is not overwritten.
        preset, size: the network.
        memory_bytes: what a training step may hold; then measured by a dry run, else estimated.
        folds: number of folds when the dataset brings no splits.
        device: where it will be trained.

    Raises:
        DataError: the dataset is faulty.
        BundleError: the output holds trained weights already.
    """
    name = re.sub(r"[^a-z0-9]+", "_", output.resolve().name.lower()).strip("_") or "bundle"
    name = name if name[0].isalpha() else f"bundle_{name}"
    check_name(name)
    if Layout(output).weights.exists():
        raise BundleError(f"{output} holds trained weights already; plan into another folder, or move that one away")
    if output.exists() and not output.is_dir():
        raise BundleError(f"{output} is a file; expected the folder of a bundle")
    dataset = open_dataset(data)
    labelled = [case for case in dataset.cases if case.label is not None]
    with progress_bar("measuring", len(labelled), unit="case") as advance:
        fingerprint = measure(dataset, workers=os.cpu_count() or 1, progress=lambda done, total: advance(done))
    splits = dataset.splits or make_splits(labelled, folds)
    check_splits(splits, labelled)
    gpu = choose_device(device).type == "cuda"

    def divisor_of(strides: list[list[int]] | None) -> Sequence[int]:
        arguments: dict[str, Any] = {} if strides is None else {"strides": strides}
        network = build_network(
            preset,
            spatial_dims=3,
            in_channels=len(dataset.channels),
            out_channels=max(dataset.labels) + 1,
            size=size,
            **arguments,
        )
        return [int(step) for step in network.divisor]

    plan = make_plan(
        dataset,
        fingerprint,
        splits,
        name=name,
        preset=preset,
        size=size,
        memory_bytes=memory_bytes,
        gpu=gpu,
        divisor_of=divisor_of,
    )
    write_bundle(output, plan, dataset)
    return plan
