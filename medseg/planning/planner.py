"""From a dataset's fingerprint to a plan, each value with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medseg.datasets import Dataset
from medseg.networks import PRESETS
from medseg.transforms.classes import class_values

from .crops import BYTES_PER_VOXEL, choose_crops, choose_strides
from .fingerprint import Fingerprint
from .grid import Grid, choose_dimensions, choose_grid, coarser_grid
from .plan import Plan
from .recipe import (
    CHANNEL_DROPOUT,
    choose_augmentation,
    choose_normalization,
    choose_regions,
    default_optimization,
    find_warnings,
    has_fixed_patch,
    has_tokens,
)

DEFAULT_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
# With less of the median case in a crop than this, a low-resolution network is planned too; nnU-Net's limit is a quarter, but
# ours finds the box of the organs and does not refine every voxel, which pays for large volumes only.
LITTLE_CONTEXT = 0.05
# Without a GPU a step has to be short and crops small. Where they would see less of the median case than the first number, but
# are not hopeless, the spacing is coarsened (at most about twice) until they see the second: a short training gains more
# from context than from fine voxels.
LITTLE_WITHOUT_GPU, ENOUGH_WITHOUT_GPU = 0.1, 0.25
# ... unless a typical piece of some label would be left with fewer voxels than this (about 7 across): then every voxel counts.
SMALLEST_PIECE = 200


@dataclass(frozen=True)
class Request:
    """What the person who plans asked for; None leaves the decision to the data.

    Args:
        name: name of the bundle.
        preset, size: a network of `medseg.networks.PRESETS`.
        memory_bytes: what a training step may hold; default 4 GB without and 8 GB with a GPU.
        bytes_per_voxel: what a step of this network was measured to hold per voxel of its crops; None for an estimate.
        gpu: whether a GPU will train it.
        spatial_dims: 2 or 3.
        preset_strides: of the preset in these dimensions, per level and axis.
        stages: 1 for full resolution only, 2 for a low-resolution network before it.
        missing_channels: `zero` trains cases that lack a channel, `error` refuses them.
        folds: how many were wanted, where the dataset brings none.
        device: the one that a person named; "" where the machine was looked at.
        project: package of the user's own parts, see `medseg.own_parts`.
        chosen: which of these, and whether `regions`, a person gave, for the reasons; the others are defaults.
    """

    name: str
    preset: str = "mambavision"
    size: str = "nano"
    memory_bytes: float | None = None
    bytes_per_voxel: float | None = None
    gpu: bool = False
    spatial_dims: int | None = None
    preset_strides: Sequence[Sequence[int]] = DEFAULT_STRIDES
    stages: int | None = None
    missing_channels: str = "error"
    folds: int | None = None
    device: str = ""
    project: str | None = None
    chosen: Sequence[str] = ()


def make_plan(dataset: Dataset, fingerprint: Fingerprint, splits: list[dict[str, list[str]]], asked: Request) -> Plan:
    """Decide every value.

    Args:
        dataset: where the cases come from.
        fingerprint: what was measured in them.
        splits: folds, see `medseg.planning.folds`.
        asked: what the person who plans wants.
    """
    reasons: dict[str, str] = {}
    dims, reasons["spatial_dims"] = choose_dimensions(fingerprint, asked.spatial_dims)
    grid, reasons["spacing"] = choose_grid(fingerprint, dims)
    sizes = _sizes(grid, dims, asked, dataset, reasons)
    grid, sizes = _affordable(grid, sizes, dims, asked, (dataset, fingerprint), reasons)
    normalization, reasons["normalization"] = choose_normalization(dataset, fingerprint)
    optimization, augmentation = _training(dataset, grid, dims, asked, reasons)
    reasons["splits"] = _why_splits(len(splits), bool(dataset.splits), asked)
    covered = math.prod(sizes["roi_size"]) / math.prod(grid.shape[:dims])
    return Plan(
        name=asked.name,
        data_folder=str(dataset.folder.absolute()),
        spatial_dims=dims,
        channels=dict(dataset.channels),
        labels=dict(dataset.labels),
        orientation=grid.orientation,
        **sizes,
        normalization=normalization,
        optimization=optimization,
        augmentation=augmentation,
        inference={"overlap": 0.5, "sw_batch_size": 1, "mirror_axes": []},
        folds=len(splits),
        splits=splits,
        fingerprint=fingerprint.to_dict(),
        low_resolution=_low_resolution(grid, dims, covered, asked, dataset, reasons),
        reasons=reasons,
        warnings=find_warnings(dataset, fingerprint, covered),
        ignore_label=dataset.ignore_label,
        licence=dataset.licence,
        reference=dataset.reference,
        regions=choose_regions(dataset),
        missing_channels=asked.missing_channels,
        project=asked.project,
    )


def _sizes(grid: Grid, dims: int, asked: Request, dataset: Dataset, reasons: dict[str, str]) -> dict[str, Any]:
    """spacing, roi_size, batch_size and network for a grid."""
    shape, spacing = grid.shape[:dims], grid.spacing[:dims]
    preset_strides = [list(step)[:dims] for step in asked.preset_strides]
    anisotropic = max(spacing) > 2 * min(spacing)
    strides = choose_strides(shape, spacing, preset_strides) if anisotropic else preset_strides
    total_strides = [math.prod(axis) for axis in zip(*strides, strict=True)]
    per_voxel = asked.bytes_per_voxel or BYTES_PER_VOXEL
    crops = choose_crops(shape, spacing, total_strides, asked.memory_bytes, per_voxel, asked.gpu)
    roi_size, batch_size, reasons["roi_size"], reasons["batch_size"] = crops
    network: dict[str, Any] = {
        "preset": asked.preset,
        "spatial_dims": dims,
        "in_channels": len(dataset.channels),
        "out_channels": len(dataset.regions) or len(class_values(dataset.labels)),
        "size": asked.size,
        "mixer": None,
        **({"project": asked.project} if asked.project and asked.preset not in PRESETS else {}),
    }
    outputs = "region" if dataset.regions else "label and background"
    reasons["network"] = f"{_why_network(asked)}; one output per {outputs}"
    if anisotropic:
        network["strides"] = strides
        reasons["network"] += "; strides spare the coarse axis until it is within 2x of the finest"
    if has_fixed_patch(asked.preset, asked.size, dims, asked.project):
        network["roi_size"] = list(roi_size)
        reasons["network"] += "; its weights belong to this patch, whose coarse maps have channels for tokens"
    return {"spacing": grid.spacing, "roi_size": roi_size, "batch_size": batch_size, "network": network}


def _why_splits(count: int, own: bool, asked: Request) -> str:
    if own:
        ignored = (
            f", in place of the {asked.folds} asked for" if "folds" in asked.chosen and asked.folds != count else ""
        )
        return f"{count} folds of the dataset's own splits file{ignored}"
    if asked.folds is not None and count < asked.folds:
        return f"{count} shuffled folds, one for each subject: there are no more for the {asked.folds} wanted"
    return f"{count} shuffled folds over subjects"


def _why_network(asked: Request) -> str:
    preset = "the preset asked for" if "preset" in asked.chosen else "medseg's default preset"
    size = "the size asked for" if "size" in asked.chosen else "the default size"
    return f"{preset}, {asked.preset}, in {size}, {asked.size}"


def _affordable(
    grid: Grid,
    sizes: dict[str, Any],
    dims: int,
    asked: Request,
    data: tuple[Dataset, Fingerprint],
    reasons: dict[str, str],
) -> tuple[Grid, dict[str, Any]]:
    """Grid and sizes that a training without a GPU can make something of."""
    dataset, fingerprint = data
    seen = math.prod(sizes["roi_size"]) / math.prod(grid.shape)
    free = asked.gpu or asked.memory_bytes is not None or asked.stages == 2 or dims == 2
    if free or not LITTLE_CONTEXT <= seen < LITTLE_WITHOUT_GPU:
        return grid, sizes
    coarse = coarser_grid(grid, math.prod(sizes["roi_size"]), covers=ENOUGH_WITHOUT_GPU)
    fine_text, coarse_text = (" x ".join(f"{step:g}" for step in each.spacing) for each in (grid, coarse))
    voxels, label = _smallest_piece(fingerprint, dataset, coarse)
    if voxels < SMALLEST_PIECE:
        reasons["spacing"] += (
            f"; kept, though a crop sees only {seen:.0%} of the median case: at {coarse_text} mm a piece of {label!r} would have "
            f"{voxels:.0f} voxels"
        )
        return grid, sizes
    reasons["spacing"] += (
        f"; coarsened from {fine_text} mm: without a GPU crops are small, and would see {seen:.0%} of the median case; now "
        f"{ENOUGH_WITHOUT_GPU:.0%} (--memory or a GPU keeps the fine grid)"
    )
    return coarse, _sizes(coarse, dims, asked, dataset, reasons)


def _smallest_piece(fingerprint: Fingerprint, dataset: Dataset, grid: Grid) -> tuple[float, str]:
    """Voxels of a typical piece of the label with the smallest ones, on a grid, and that label's name."""
    voxel_ml = math.prod(grid.spacing) / 1000
    found = [
        (
            volume / max(1.0, fingerprint.label_pieces.get(value, {}).get("median", 1.0)) / voxel_ml,
            dataset.labels[value],
        )
        for value, volume in fingerprint.label_volume_ml.items()
        if value in dataset.labels
    ]
    return min(found, default=(math.inf, ""))


def _training(
    dataset: Dataset, grid: Grid, dims: int, asked: Request, reasons: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Optimization and augmentation."""
    tokens = has_tokens(asked.preset, asked.size, dims, asked.project)
    optimization, reasons["optimization"] = default_optimization(asked.gpu, tokens, asked.device)
    if dataset.regions:
        optimization["loss"] = "dice_bce"
        source = "--region asks for" if "regions" in asked.chosen else "the dataset declares"
        reasons["regions"] = (
            f"{source} overlapping regions: a sigmoid output and Dice + binary cross-entropy for each; where they "
            "overlap the later one writes its label"
        )
    names = [label for value, label in dataset.labels.items() if value > 0]
    augmentation, reasons["augmentation"] = choose_augmentation(names, grid.spacing[:dims], asked.gpu)
    if "mirror_axes" in augmentation and dims == 2:
        # left-right is no axis of sagittal slices
        augmentation["mirror_axes"] = [axis for axis, letter in enumerate(grid.orientation[:2]) if letter == "R"]
    if asked.missing_channels == "zero":
        augmentation["channel_dropout"] = CHANNEL_DROPOUT
        reasons["missing_channels"] = (
            "asked for: a channel without a file is zero (its mean), and crops lose a channel at random, so that the network "
            "learns to do without"
        )
    return optimization, augmentation


def _low_resolution(
    grid: Grid, dims: int, covered: float, asked: Request, dataset: Dataset, reasons: dict[str, str]
) -> dict[str, Any] | None:
    """What the low-resolution network has other than the full-resolution one; None where there is no need of it."""
    needed = covered < LITTLE_CONTEXT if asked.stages is None else asked.stages == 2
    if dims == 2 or not needed:
        return None
    own: dict[str, str] = {}
    full = _sizes(grid, dims, asked, dataset, own)
    coarse = coarser_grid(grid, math.prod(full["roi_size"]))
    sizes = _sizes(coarse, dims, asked, dataset, own)
    share = math.prod(sizes["roi_size"]) / math.prod(coarse.shape)
    why = "asked for" if asked.stages == 2 else f"a full-resolution crop sees {covered:.1%} of the median case"
    reasons["low_resolution"] = (
        f"{why}: a first network at {' x '.join(f'{step:g}' for step in coarse.spacing)} mm, whose crop sees "
        f"{min(share, 1.0):.0%} of it, finds the box that `medseg predict --fast` computes at full resolution"
    )
    return sizes


def coarse_plan(plan: Plan) -> Plan:
    """The plan of the low-resolution network as a plan of its own.

    Raises:
        ValueError: the plan has none.
    """
    if plan.low_resolution is None:
        raise ValueError(f"{plan.name} has no low-resolution network")
    augmentation = dict(plan.augmentation)
    augmentation.pop("spacing", None)
    spacing = list(plan.low_resolution["spacing"])
    if len(set(spacing)) > 1:
        augmentation["spacing"] = spacing
    return dataclasses.replace(
        plan,
        name=f"{plan.name}_low_resolution",
        **plan.low_resolution,
        augmentation=augmentation,
        reasons={"low_resolution": plan.reasons.get("low_resolution", "")},
        warnings=[],
        low_resolution=None,
    )
