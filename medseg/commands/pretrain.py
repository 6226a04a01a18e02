"""`medseg pretrain`: train a network on images without labels, with the trainer that trains everything else."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bundle.made_here import note_made
from medseg.config import read_json
from medseg.datasets import open_dataset
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError, DataError, MedsegError, nearest
from medseg.io.atomic import write_json
from medseg.io.datalist import Case
from medseg.io.geometry import spacing_of
from medseg.io.inputs import find_inputs
from medseg.io.volume import read_header
from medseg.layout import Layout
from medseg.networks import PRESETS, build_network
from medseg.planning.crops import BYTES_PER_VOXEL, choose_crops
from medseg.planning.folds import make_splits
from medseg.planning.plan import Plan
from medseg.planning.recipe import default_optimization, has_tokens
from medseg.transforms.crops.fusion import LEVELS
from medseg.types import FilePath

from .adapt_facts import case_list, list_hash
from .adapt_match import is_ct
from .fit import fit_bundle
from .plan import DEFAULT_PRESET, bundle_name
from .plan_place import check_place, put_bundle

log = logging.getLogger(__name__)
TASKS = ("volume_fusion",)
HELD_OUT = 0.1  # of the volumes, for the pretext task's own curve
CT_WINDOW = {"kind": "ct", "lower": -1000.0, "upper": 1000.0, "mean": 0.0, "std": 400.0}


@dataclass(frozen=True)
class Pretraining:
    """What was asked for.

    Args:
        task: of `TASKS`.
        preset: of `medseg.networks.PRESETS`.
        resume: go on where the run stopped.
        budget_s: seconds, or None for the plan's steps.
        overrides: "key::path" of train.json -> value.
        device: see `choose_device`.
        overwrite: set a bundle that is there aside.
    """

    task: str = "volume_fusion"
    preset: str = DEFAULT_PRESET
    resume: bool = False
    budget_s: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    overwrite: bool = False


def pretrain_bundle(data: FilePath, output: FilePath, asked: Pretraining | None = None) -> dict[str, Any]:
    """Write a bundle for the pretext task, train it, and note what it has seen.

    Args:
        data: folder of images; labels in it are not read, and the validation cases of a data set's fold 0 are left out.
        output: the bundle's folder.
        asked: see `Pretraining`.

    Returns:
        The record that travels with the weights.

    Raises:
        ConfigError: an unknown task or preset.
        DataError: fewer than two volumes, CT and others mixed, or a volume without content.
    """
    asked, folder = asked or Pretraining(), Path(output)
    for word, known in ((asked.task, TASKS), (asked.preset, PRESETS)):
        if word not in known:
            raise ConfigError(f"{word!r} is not known. {nearest(word, known)}")
    if not (asked.resume and Layout(folder).train.is_file()):
        check_place(folder, overwrite=asked.overwrite)
        cases, channels, left_out = images_of(Path(data))
        plan = _plan(cases, channels, Path(data), bundle_name(folder), asked)
        put_bundle(folder, plan, None, keep_old=asked.overwrite)
        _for_task(Layout(folder), {case.name: case for case in cases}, plan, left_out)
    elif not Layout(folder).pretraining.is_file():
        raise BundleError(f"{folder} is no pretraining; name its bundle, or leave --resume out")
    fit_bundle(folder, overrides=asked.overrides, resume=asked.resume, budget_s=asked.budget_s, device=asked.device)
    layout = Layout(folder)
    facts = {**read_json(layout.pretraining), "steps": int(read_json(layout.run(0).result)["steps"])}
    write_json(layout.pretraining, facts)
    return facts


def images_of(data: Path) -> tuple[list[Case], dict[int, str], list[str]]:
    """Images, names of their channels, and the names of the cases that are left out."""
    channels, held = {0: "image"}, set[str]()
    try:
        dataset = open_dataset(data)
    except MedsegError:
        cases = find_inputs([data])
    else:
        cases, channels = [*dataset.cases, *dataset.test_cases], dict(dataset.channels)
        splits = dataset.splits or make_splits(dataset.cases)
        held = set(splits[0]["val"]) | {case.name for case in dataset.test_cases}
        log.info("labels are not read; %d validation cases of fold 0 and test cases are left out", len(held))
    kept = [Case(case.name, case.images, None) for case in cases if case.name not in held]
    if len(kept) < 2:
        raise DataError(
            f"{data}: {len(kept)} volume to pretrain on, expected two or more: a volume is fused with another"
        )
    scaled = {is_ct(name) for name in channels.values()}
    if len(scaled) > 1:
        raise DataError(
            f"{data}: its channels are CT and others ({', '.join(channels.values())}); pretrain on one of them"
        )
    return kept, channels, sorted(held)


def _plan(cases: Sequence[Case], channels: Mapping[int, str], data: Path, name: str, asked: Pretraining) -> Plan:
    """A plan from the headers alone: median spacing, whole network, five levels."""
    headers = [read_header(case.images[0]) for case in cases]
    spacing = [float(step) for step in np.median([sorted_ras(header.affine) for header in headers], axis=0)]
    shape = [float(np.median([min(header.shape[-3:]) for header in headers]))] * 3
    network: dict[str, Any] = {
        "preset": asked.preset, "spatial_dims": 3, "in_channels": len(channels), "out_channels": len(LEVELS), "size": "nano",
        "mixer": None,
    }  # fmt: skip
    strides = [math.prod(axis) for axis in zip(*build_network(**network).strides, strict=True)]
    gpu = choose_device(asked.device).type == "cuda"
    roi_size, batch_size, *_ = choose_crops(shape, spacing, strides, None, BYTES_PER_VOXEL, gpu)
    optimization, _ = default_optimization(gpu, has_tokens(asked.preset, "nano", 3), "")
    names = [case.name for case in cases]
    val = names[:: round(1 / HELD_OUT)] if len(names) >= 20 else names[:2]
    return Plan(
        name=name, data_folder=str(data.absolute()), spatial_dims=3, channels=dict(channels), labels=dict(LEVELS),
        orientation="RAS", spacing=spacing, roi_size=list(roi_size), batch_size=max(2, batch_size),
        normalization=[dict(CT_WINDOW) if is_ct(name) else {"kind": "zscore"} for name in channels.values()],
        network=network, optimization=optimization, augmentation={"preset": "light"},
        inference={"overlap": 0.5, "sw_batch_size": 1, "mirror_axes": []}, folds=1,
        splits=[{"train": [each for each in names if each not in val or len(names) < 20], "val": list(val)}],
        reasons={"labels": "levels of Volume Fusion: no anatomy"},
    )  # fmt: skip


def sorted_ras(affine: Any) -> tuple[float, ...]:
    """Spacing along right, anterior and superior, mm."""
    from medseg.transforms.grid import closest_axes

    axes, _ = closest_axes(affine)
    steps = spacing_of(affine)
    return tuple(steps[axis] for axis in axes)


def _for_task(layout: Layout, cases: Mapping[str, Case], plan: Plan, left_out: Sequence[str]) -> None:
    """Let train.json read images for the pretext task, and note the cases."""
    train = read_json(layout.train)
    split = plan.splits[0]
    listed = {
        part: [{"image": [str(p.absolute()) for p in cases[name].images]} for name in split[part]] for part in split
    }
    train["train"]["dataset"] |= {"_target_": "medseg.components.FusionDataset", "data": listed["train"]}
    validate = train["validate"]["dataset"]
    train["validate"]["dataset"] = {
        **validate, "_target_": "medseg.components.FusionValidation", "roi_size": "@roi_size", "data": listed["val"]
    }  # fmt: skip
    write_json(layout.train, train)
    seen = case_list(cases.values())
    write_json(
        layout.pretraining,
        {
            "task": "volume_fusion", "cases": seen, "cases_sha256": list_hash(seen), "spacing": plan.spacing,
            "normalization": plan.normalization, "channels": list(plan.channels.values()),
            "preset": plan.network["preset"], "left_out": list(left_out), "steps": 0,
        },
    )  # fmt: skip
    note_made(layout.folder)
