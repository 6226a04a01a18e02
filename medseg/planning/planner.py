"""From a dataset's fingerprint to a plan, each value with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from medseg.datasets import Dataset

from .fingerprint import Fingerprint
from .plan import Plan

# An axis is coarse when its spacing is this many times the finest (the rule of nnU-Net, Isensee et al. 2021).
ANISOTROPY = 3.0
# Voxels of all crops of one step without a GPU: keeps a step of a nano network well below a second on two cores.
CPU_STEP_VOXELS = 360_000
# A first guess of the bytes that a nano network holds per voxel of a training step; `medseg.planning.memory` measured 2964
# for mambavision nano at 64^3, fp32, on a CPU. `--memory` measures the step instead of guessing.
BYTES_PER_VOXEL = 2600
SMALLEST_AXIS = 8
DEFAULT_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def choose_spacing(fingerprint: Fingerprint) -> tuple[list[float], str]:
    """Median spacing; for a coarse axis the 10th percentile, so that fine cases keep their slices."""
    spacing = list(fingerprint.median_spacing)
    finest = min(spacing)
    coarse = [axis for axis in range(len(spacing)) if spacing[axis] > ANISOTROPY * finest]
    for axis in coarse:
        others = min(value for index, value in enumerate(spacing) if index != axis)
        spacing[axis] = max(fingerprint.spacing_p10[axis], others)
    rounded = [round(value, 4) for value in spacing]
    if coarse:
        names = ", ".join("XYZ"[axis] for axis in coarse)
        return (
            rounded,
            f"the median spacing of {fingerprint.cases} cases; the 10th percentile along the coarse axis {names}",
        )
    return rounded, f"the median spacing of {fingerprint.cases} cases (R, A, S order, mm)"


def choose_strides(
    shape: Sequence[float], spacing: Sequence[float], preset_strides: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Strides per level and axis: the preset's own, but an axis is spared until it is within 2x of the finest.

    Args:
        shape: voxels of the median case.
        spacing: mm per voxel.
        preset_strides: what the preset does at each of its levels on isotropic volumes.
    """
    current, size = list(spacing), list(shape)
    strides = []
    for level in preset_strides:
        finest = min(current)
        step = [s if current[a] < 2 * finest and size[a] >= SMALLEST_AXIS else 1 for a, s in enumerate(level)]
        strides.append(step)
        current = [value * factor for value, factor in zip(current, step, strict=True)]
        size = [value / factor for value, factor in zip(size, step, strict=True)]
    return strides


def choose_roi_size(
    shape: Sequence[float],
    spacing: Sequence[float],
    divisor: Sequence[int],
    voxels: float,
    *,
    least: Sequence[int] | None = None,
) -> tuple[list[int], str]:
    """The largest crop of at most `voxels` that covers the median case, or as much of it as fits, nearly cubic in mm.

    Args:
        shape: median shape on the network's grid, in voxels.
        spacing: mm per voxel of that grid.
        divisor: each axis becomes a multiple of this.
        voxels: upper bound of the crop's volume.
        least: lower bound per axis: twice the network's total stride, so that its deepest maps are no single voxels.
    """
    least = [max(low, d) for low, d in zip(least or divisor, divisor, strict=True)]

    def rounded(size: Sequence[float]) -> list[int]:
        return [max(n, math.ceil(v / d - 1e-6) * d) for v, d, n in zip(size, divisor, least, strict=True)]

    whole = rounded(shape)
    if math.prod(whole) <= voxels:
        return whole, f"covers the median case of {'x'.join(str(round(v)) for v in shape)} voxels whole"
    roi = list(whole)
    while math.prod(roi) > voxels:
        # shorten the axis that is longest in mm, so that the crop stays nearly cubic in the body
        axis = max((a for a in range(len(roi)) if roi[a] > least[a]), key=lambda a: roi[a] * spacing[a], default=None)
        if axis is None:
            break
        roi[axis] -= divisor[axis]
    share = math.prod(roi) / math.prod(shape)
    return (
        roi,
        f"the largest nearly cubic crop within the budget of {voxels / 1e6:.2g} million voxels; {share:.0%} of the median case",
    )


def choose_normalization(dataset: Dataset, fingerprint: Fingerprint) -> tuple[list[dict[str, Any]], str]:
    """CT is clipped and scaled by the statistics of labelled voxels; anything else is z-scored per image."""
    entries: list[dict[str, Any]] = []
    words = []
    for channel, name in sorted(dataset.channels.items()):
        if name.strip().lower() in ("ct", "cta", "ct scan"):
            facts = fingerprint.intensity[channel]
            entries.append(
                {
                    "kind": "ct",
                    "lower": round(facts["p0_5"], 3),
                    "upper": round(facts["p99_5"], 3),
                    "mean": round(facts["mean"], 3),
                    "std": round(max(facts["std"], 1e-8), 3),
                }
            )
            words.append(
                f"{name}: HU mean the same everywhere, so clip to the labelled voxels' 0.5 to 99.5 % and scale"
            )
        else:
            entries.append({"kind": "zscore"})
            words.append(f"{name}: intensities have no unit, so each image is z-scored by itself")
    return entries, "; ".join(words)


def default_optimization(gpu: bool) -> tuple[dict[str, Any], str]:
    """Optimizer and length of training."""
    settings = {
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "warmup_steps": 50,
        "schedule": "poly",
        "gradient_clip": 1.0,
        "ema_decay": 0.99,
        "loss": "dice_ce",
        "max_epochs": 200 if gpu else 40,
        "steps_per_epoch": 250 if gpu else 50,
        "val_interval": 10,
        "early_stop": None,
    }
    reason = "AdamW with warm-up suits networks with token stages; " + (
        "50 000 steps, since a GPU was found"
        if gpu
        else "2 000 steps, since no GPU was found (`--budget` sets another length)"
    )
    return settings, reason


def choose_augmentation(labels: Sequence[str], spacing: Sequence[float], gpu: bool) -> tuple[dict[str, Any], str]:
    """Strength by the length of training; no mirroring where labels tell left from right."""
    sided = [name for name in labels if re.search(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", name.lower())]
    settings: dict[str, Any] = {"preset": "default" if gpu else "light"}
    if len(set(spacing)) > 1:
        settings["spacing"] = list(spacing)
    if sided:
        return settings | {"mirror": 0.0}, f"no mirroring, since label {sided[0]!r} tells left from right"
    if gpu:
        return settings, "the usual recipe, mirrored along every axis, for a long training"
    return settings | {
        "mirror_axes": [0]
    }, "light, and mirrored left-right only: a short training gains more from upright anatomy"


def choose_regions(dataset: Dataset) -> list[dict[str, Any]]:
    """The dataset's overlapping targets as plan.json has them; empty when it declares none."""
    return [
        {"name": name, "labels": list(values), "label": writes}
        for (name, values), writes in zip(dataset.regions.items(), dataset.region_order, strict=True)
    ]


def choose_crops(
    shape: Sequence[float],
    spacing: Sequence[float],
    total_strides: Sequence[int],
    memory_bytes: float | None,
    bytes_per_voxel: float,
    gpu: bool,
) -> tuple[list[int], int, str, str]:
    """Crop and batch for a budget; returns roi_size, batch_size and the reason of each.

    Args:
        shape, spacing: of the median case on the network's grid.
        total_strides: how much the network shrinks each axis.
        memory_bytes: what a step may hold, or None for the defaults.
        bytes_per_voxel: what a step holds per voxel of its crops.
        gpu: whether a GPU will train it.
    """
    # the deepest stages pad by themselves: rounding the crop up to more than 8 would only add empty voxels
    divisor = [min(step, 8) for step in total_strides]
    voxels = (memory_bytes or (8e9 if gpu else 4e9)) / bytes_per_voxel
    limit = "the memory budget"
    if not gpu and memory_bytes is None and voxels > CPU_STEP_VOXELS:
        voxels, limit = CPU_STEP_VOXELS, "the time a step takes without a GPU"
    least = [2 * step for step in total_strides]
    roi_size, why_roi = choose_roi_size(shape, spacing, divisor, voxels / 2, least=least)
    batch_size = int(max(2, min(voxels // math.prod(roi_size), 16 if gpu else 4)))
    why_batch = f"as many crops of {math.prod(roi_size) / 1e6:.2g} million voxels as {limit} allows, at least 2"
    return roi_size, batch_size, why_roi, why_batch


def find_warnings(dataset: Dataset, fingerprint: Fingerprint, covered: float) -> list[str]:
    """What a person should look at: scarce context, rare labels.

    Args:
        dataset, fingerprint: what was measured.
        covered: share of the median case that a crop covers.
    """
    warnings = []
    if covered < 0.02:
        warnings.append(
            f"a crop covers {covered:.1%} of the median case: context is scarce; consider twice the spacing for a first, coarse model"
        )
    for value, label in dataset.labels.items():
        count = fingerprint.label_cases.get(value, 0)
        if value > 0 and count < fingerprint.cases:
            warnings.append(f"label {value} ({label}) is in {count} of {fingerprint.cases} cases")
    return warnings


def make_plan(
    dataset: Dataset,
    fingerprint: Fingerprint,
    splits: list[dict[str, list[str]]],
    *,
    name: str,
    preset: str = "mambavision",
    size: str = "nano",
    memory_bytes: float | None = None,
    bytes_per_voxel: float | None = None,
    gpu: bool = False,
    preset_strides: Sequence[Sequence[int]] = DEFAULT_STRIDES,
) -> Plan:
    """Decide every value.

    Args:
        dataset: where the cases come from.
        fingerprint: what was measured in them.
        splits: folds, see `medseg.planning.splits`.
        name: name of the bundle.
        preset, size: a network of `medseg.networks.PRESETS`.
        memory_bytes: what a training step may hold; default 4 GB without and 8 GB with a GPU.
        bytes_per_voxel: what a step of this network was measured to hold per voxel of its crops; None for an estimate.
        gpu: whether a GPU will train it.
        preset_strides: of the preset, per level and axis.
    """
    reasons: dict[str, str] = {}
    spacing, reasons["spacing"] = choose_spacing(fingerprint)
    shape = [
        extent * old / new
        for extent, old, new in zip(fingerprint.median_shape, fingerprint.median_spacing, spacing, strict=True)
    ]
    anisotropic = max(spacing) > 2 * min(spacing)
    strides = choose_strides(shape, spacing, preset_strides) if anisotropic else [list(step) for step in preset_strides]
    total_strides = [math.prod(axis) for axis in zip(*strides, strict=True)]
    crops = choose_crops(shape, spacing, total_strides, memory_bytes, bytes_per_voxel or BYTES_PER_VOXEL, gpu)
    roi_size, batch_size, reasons["roi_size"], reasons["batch_size"] = crops
    normalization, reasons["normalization"] = choose_normalization(dataset, fingerprint)
    optimization, reasons["optimization"] = default_optimization(gpu)
    regions = choose_regions(dataset)
    if regions:
        optimization["loss"] = "dice_bce"
        reasons["regions"] = (
            "the dataset declares overlapping regions: a sigmoid output and Dice + binary cross-entropy for each; where they "
            "overlap the later one writes its label"
        )
    names = [label for value, label in dataset.labels.items() if value > 0]
    augmentation, reasons["augmentation"] = choose_augmentation(names, spacing, gpu)
    network: dict[str, Any] = {
        "preset": preset,
        "spatial_dims": 3,
        "in_channels": len(dataset.channels),
        "out_channels": len(regions) or max(dataset.labels) + 1,
        "size": size,
        "mixer": None,
    }
    reasons["network"] = (
        f"the preset asked for ({preset}, {size}); one output per {'region' if regions else 'label and background'}"
    )
    if anisotropic:
        network["strides"] = strides
        reasons["network"] += "; strides spare the coarse axis until it is within 2x of the finest"
    reasons["splits"] = (
        f"{len(splits)} folds of the dataset's own splits file"
        if dataset.splits
        else f"{len(splits)} shuffled folds over subjects"
    )
    return Plan(
        name=name,
        data_folder=str(dataset.folder.absolute()),
        spatial_dims=3,
        channels=dict(dataset.channels),
        labels=dict(dataset.labels),
        orientation="RAS",
        spacing=spacing,
        roi_size=roi_size,
        batch_size=batch_size,
        normalization=normalization,
        network=network,
        optimization=optimization,
        augmentation=augmentation,
        inference={"overlap": 0.5, "sw_batch_size": 1, "mirror_axes": []},
        folds=len(splits),
        splits=splits,
        fingerprint=fingerprint.to_dict(),
        reasons=reasons,
        warnings=find_warnings(dataset, fingerprint, math.prod(roi_size) / math.prod(shape)),
        ignore_label=dataset.ignore_label,
        licence=dataset.licence,
        reference=dataset.reference,
        regions=regions,
    )
