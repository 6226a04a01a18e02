"""`medseg plan`: measure a dataset, decide, and write the bundle that holds every decision."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from medseg.bars import progress_bar
from medseg.config import apply_overrides, read_json, steps_of
from medseg.datasets import Dataset, open_dataset
from medseg.datasets.regions import class_order
from medseg.devices import choose_device
from medseg.errors import ConfigError, ResourceError
from medseg.layout import check_name
from medseg.networks import PRESETS, build_network
from medseg.planning.fingerprint import measure
from medseg.planning.folds import check_splits, make_splits
from medseg.planning.grid import choose_dimensions
from medseg.planning.length import with_budget
from medseg.planning.memory import measure_step
from medseg.planning.plan import Plan
from medseg.planning.planner import Request, make_plan
from medseg.transforms.classes import class_values
from medseg.types import FilePath

from .own_words import KEY, OwnWords, asks
from .plan_place import check_place, put_bundle

log = logging.getLogger(__name__)
DEFAULT_PRESET, DEFAULT_SIZE, FOLDS = "mambavision", "nano", 5
MEASUREMENTS = 5  # dry runs at most; each starts a process of its own on a CPU


class Words(TypedDict, total=False):
    """What `medseg.plan` takes by name beside its arguments: what becomes a `Request`, and the regions."""

    preset: str | None
    size: str | None
    memory_bytes: float | None
    folds: int
    regions: Mapping[str, Sequence[int]] | None
    spatial_dims: int | None
    stages: int | None
    missing_channels: str


def plan_bundle(
    data: FilePath,
    output: FilePath,
    *,
    device: str = "auto",
    budget_s: float | None = None,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    **words: Unpack[Words],
) -> Plan:
    """Plan a dataset and write the bundle.

    Args:
        data: the dataset's folder, in a layout of `medseg.datasets.DATASETS`.
        output: the bundle's folder; new, empty, or a bundle that is neither trained nor edited.
        device: where it will be trained.
        budget_s: seconds that each fold will be trained for; a step is timed, and `fit` keeps to it unless told otherwise.
        overwrite: set an existing bundle aside, whatever it holds, as `NAME.previous_1`.
        overrides: "key::path" of plan.json -> value, such as "optimization::loss"; `project` is a folder with code.
        files: JSON files of the same, the overrides win.
        words: `preset` and `size` of the network, default mambavision, nano; `memory_bytes` that a training step may hold, then
            measured by a dry run, else estimated; `folds` when the dataset brings no splits; `regions`, overlapping targets to
            learn instead of the plain labels, larger ones first, by default the dataset's own; `spatial_dims`, `stages` and
            `missing_channels` as of `medseg.planning.planner.Request`.

    Raises:
        DataError: the dataset is faulty.
        BundleError: the output is no bundle and not empty, or a bundle that would lose weights or edits.
    """
    own = OwnWords.of(overrides, [Path(file) for file in files])
    project = None if own.project is None else own.project.name
    output = Path(output)
    kind = "cuda" if choose_device(device).type == "cuda" else "cpu"
    name = bundle_name(output)
    check_place(output, overwrite=overwrite)
    regions = words.get("regions") or {}
    missing = words.get("missing_channels", "error")
    dataset = _with_regions(open_dataset(data, missing_channels=missing, project=project), regions)
    labelled = [case for case in dataset.cases if case.label is not None]
    with progress_bar("measuring", len(labelled), unit="case") as advance:
        fingerprint = measure(dataset, workers=os.cpu_count() or 1, progress=lambda done, total: advance(done))
    splits = dataset.splits or make_splits(labelled, words.get("folds", FOLDS))
    check_splits(splits, labelled)
    asked = _request(name, words, kind, "" if device == "auto" else device)
    dims, _ = choose_dimensions(fingerprint, asked.spatial_dims)
    strides = preset_strides(asked.preset, asked.size, dims, dataset, project)
    asked = dataclasses.replace(asked, project=project, preset_strides=strides)

    def make(bytes_per_voxel: float | None) -> Plan:
        return make_plan(dataset, fingerprint, splits, dataclasses.replace(asked, bytes_per_voxel=bytes_per_voxel))

    plan = make(None) if asked.memory_bytes is None else _plan_within(asked.memory_bytes, make, kind)
    if budget_s is not None:
        plan = with_budget(plan, budget_s, _seconds_of_step(plan, kind, budget_s))
    plan = _as_asked(plan, own)
    put_bundle(output, plan, dataset, keep_old=overwrite, project=own.project, code=own.named)
    return plan


def _request(name: str, words: Words, kind: str, device: str) -> Request:
    """What planning is asked for, and which of it a person chose."""
    folds = words.get("folds", FOLDS)
    given = {word: words.get(word) or None for word in ("preset", "size", "regions")}
    chosen = [*(word for word, value in given.items() if value is not None), *(["folds"] if folds != FOLDS else [])]
    return Request(
        name,
        words.get("preset") or DEFAULT_PRESET,
        words.get("size") or DEFAULT_SIZE,
        memory_bytes=words.get("memory_bytes"),
        gpu=kind == "cuda",
        spatial_dims=words.get("spatial_dims"),
        stages=words.get("stages"),
        missing_channels=words.get("missing_channels", "error"),
        folds=folds,
        device=device,
        chosen=chosen,
    )


def _seconds_of_step(plan: Plan, device: str, budget_s: float) -> float | None:
    """Seconds of a training step as planned, timed within a tenth of the budget (10 s at least); None where that fails."""
    try:
        cost = measure_step(
            plan.network, plan.roi_size, plan.batch_size, device, timeout_s=min(300.0, max(10.0, budget_s / 10))
        )
    except ResourceError as error:
        log.warning("--budget: %s", error)
        return None
    return cost.seconds


def _as_asked(plan: Plan, own: OwnWords) -> Plan:
    """The plan with the values that a person gave, each with that reason.

    Raises:
        ConfigError: an unknown key, with the nearest.
        BundleError: the values contradict each other.
    """
    values, asked = plan.to_dict(), _asked(own)
    if not asked:
        return plan
    changed = apply_overrides(values, asked)
    for key, value in asked.items():
        place = steps_of(key)[0]
        said = "; ".join(
            part for part in (changed["reasons"].get(place, ""), f"asked for: {key}={json.dumps(value)}") if part
        )
        changed["reasons"][place] = said
    network = changed["network"]
    if own.project is not None and asks(network):
        network[KEY] = own.project.name
    return Plan.of(changed, "what was asked for: ", "; give other values")


def _asked(own: OwnWords) -> dict[str, Any]:
    """Key -> value of the files and the command line, the project left out."""
    found: dict[str, Any] = {}
    for file in own.files:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ConfigError(f"{file}: holds a {type(content).__name__}, expected an object of keys and values")
        found |= {key: value for key, value in content.items() if key != KEY}
    return found | dict(own.overrides)


def bundle_name(output: Path) -> str:
    """A bundle name made of the folder's."""
    name = re.sub(r"[^a-z0-9]+", "_", output.resolve().name.lower()).strip("_") or "bundle"
    name = name if name[0].isalpha() else f"bundle_{name}"
    check_name(name)
    return name


def preset_strides(preset: str, size: str, dims: int, dataset: Dataset, project: str | None = None) -> list[list[int]]:
    """Steps per level and axis of a preset for a data set's channels and labels."""
    network = build_network(
        preset,
        spatial_dims=dims,
        in_channels=len(dataset.channels),
        out_channels=len(dataset.regions) or len(class_values(dataset.labels)),
        size=size,
        project=None if preset in PRESETS else project,
    )
    return [[int(step) for step in level] for level in network.strides]


def _with_regions(dataset: Dataset, regions: Mapping[str, Sequence[int]] | None) -> Dataset:
    """The dataset with the regions that were asked for in place of its own. Raises DataError where they do not fit."""
    if not regions:
        return dataset
    wanted = {name: tuple(values) for name, values in regions.items()}
    order = class_order(dataset.folder / "dataset.json", wanted)
    return dataclasses.replace(dataset, regions=wanted, region_order=order)


def _plan_within(memory_bytes: float, make: Callable[[float | None], Plan], device: str) -> Plan:
    """Plan, run a step of the plan, and plan again with what it held, until the step fits the budget.

    Raises:
        ResourceError: even the smallest crop holds more.
    """
    bytes_per_voxel: float | None = None
    tried: set[tuple[int, ...]] = set()
    for _ in range(MEASUREMENTS):
        plan = make(bytes_per_voxel)
        crops = (plan.batch_size, *plan.roi_size)
        cost = measure_step(plan.network, plan.roi_size, plan.batch_size, device)
        log.info("batch %d of %s: a step holds %.2f GB", plan.batch_size, plan.roi_size, cost.memory_bytes / 1e9)
        if cost.memory_bytes <= memory_bytes and (crops in tried or cost.memory_bytes > 0.7 * memory_bytes):
            break
        if cost.memory_bytes > memory_bytes and crops in tried:
            raise ResourceError(
                f"the smallest crops, batch {plan.batch_size} of {plan.roi_size}, hold {cost.memory_bytes / 1e9:.2f} GB; "
                f"--memory is {memory_bytes / 1e9:.2f} GB. Choose a smaller preset or size."
            )
        tried.add(crops)
        # 3 % above what was measured, so that the next plan lands just below the budget
        bytes_per_voxel = 1.03 * cost.memory_bytes / math.prod(crops)
    plan.reasons["batch_size"] += (
        f"; measured: a step holds {cost.memory_bytes / 1e9:.2f} GB and takes {cost.seconds:.2f} s"
    )
    return plan
