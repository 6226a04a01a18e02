"""From a dataset's fingerprint to a plan, each value with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from medseg.datasets import Dataset

from .fingerprint import Fingerprint
from .plan import Plan

# An axis is coarse when its spacing is this many times the finest (the rule of nnU-Net, Isensee et al. 2021).
ANISOTROPY = 3.0
# Voxels of all crops of one step without a GPU: keeps a step of a nano network well below a second on two cores.
CPU_STEP_VOXELS = 360_000
# Bytes that a nano network holds per voxel of a training step, measured with `medseg.planning.memory` (forward,
# backward and optimizer at 64^3, fp32): a first guess, replaced by a measurement when `--memory` is given.
BYTES_PER_VOXEL = 2600
SMALLEST_AXIS = 8


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


def choose_strides(shape: Sequence[float], spacing: Sequence[float], stages: int) -> list[list[int]]:
    """Per stage and axis 1 or 2: an axis is halved once it is within 2x of the finest and long enough to halve.

    Args:
        shape: voxels of the crop.
        spacing: mm per voxel.
        stages: number of strided steps.
    """
    current, size = list(spacing), list(shape)
    strides = []
    for _ in range(stages):
        finest = min(current)
        step = [2 if current[a] < 2 * finest and size[a] >= 2 * SMALLEST_AXIS / 2 else 1 for a in range(len(size))]
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
    divisor_of: Callable[[list[list[int]] | None], Sequence[int]] | None = None,
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
        divisor_of: strides -> multiple per axis that the network's inputs are best in; default 8 per axis, and never more than 8.
    """
    reasons: dict[str, str] = {}
    warnings: list[str] = []
    spacing, reasons["spacing"] = choose_spacing(fingerprint)
    shape = [
        extent * old / new
        for extent, old, new in zip(fingerprint.median_shape, fingerprint.median_spacing, spacing, strict=True)
    ]
    anisotropic = max(spacing) > 2 * min(spacing)
    strides = choose_strides(shape, spacing, 4) if anisotropic else None
    # the deepest stages pad by themselves: rounding the crop up to more than 8 would only add empty voxels
    total_strides = [int(step) for step in (divisor_of(strides) if divisor_of else (8, 8, 8))]
    divisor = [min(step, 8) for step in total_strides]
    least = [2 * step for step in total_strides]
    budget = memory_bytes or (8e9 if gpu else 4e9)
    voxels = budget / (bytes_per_voxel or BYTES_PER_VOXEL)
    limit = "the memory budget"
    if not gpu and memory_bytes is None and voxels > CPU_STEP_VOXELS:
        voxels, limit = CPU_STEP_VOXELS, "the time a step takes without a GPU"
    roi_size, reasons["roi_size"] = choose_roi_size(shape, spacing, divisor, voxels / 2, least=least)
    batch_size = int(max(2, min(voxels // math.prod(roi_size), 16 if gpu else 4)))
    reasons["batch_size"] = (
        f"as many crops of {math.prod(roi_size) / 1e6:.2g} million voxels as {limit} allows, at least 2"
    )
    normalization, reasons["normalization"] = choose_normalization(dataset, fingerprint)
    optimization, reasons["optimization"] = default_optimization(gpu)
    names = [label for value, label in dataset.labels.items() if value > 0]
    augmentation, reasons["augmentation"] = choose_augmentation(names, spacing, gpu)
    network: dict[str, Any] = {
        "preset": preset,
        "spatial_dims": 3,
        "in_channels": len(dataset.channels),
        "out_channels": max(dataset.labels) + 1,
        "size": size,
        "mixer": None,
    }
    reasons["network"] = f"the preset asked for ({preset}, {size}); one output per label and background"
    if strides is not None:
        network["strides"] = strides
        reasons["network"] += "; strides spare the coarse axis until it is within 2x of the finest"
    if min(fingerprint.median_shape) < 2 * SMALLEST_AXIS:
        warnings.append(
            f"the median case has only {min(fingerprint.median_shape):.0f} voxels along one axis; "
            "a 2D network (network spatial_dims 2) may do as well"
        )
    covered = math.prod(roi_size) / math.prod(shape)
    if covered < 0.02:
        warnings.append(
            f"a crop covers {covered:.1%} of the median case: context is scarce; consider twice the spacing for a first, coarse model"
        )
    for value, label in dataset.labels.items():
        if value > 0 and fingerprint.label_cases.get(value, 0) < fingerprint.cases:
            warnings.append(
                f"label {value} ({label}) is in {fingerprint.label_cases.get(value, 0)} of {fingerprint.cases} cases"
            )
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
        warnings=warnings,
        ignore_label=dataset.ignore_label,
        licence=dataset.licence,
        reference=dataset.reference,
    )
