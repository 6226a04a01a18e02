"""Everything of a plan that does not depend on the grid: normalization, training, augmentation, regions, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medseg.datasets import Dataset
from medseg.networks.build import find_spec
from medseg.networks.convolutions import CONVOLUTIONS
from medseg.networks.mixers import CHANNEL_MIXERS
from medseg.networks.recipe import Layer, Replace, TokensOrChannels

from .fingerprint import Fingerprint
from .sides import tells_sides

# Share of training crops of a multi-channel dataset with absent channels that lose one more at random.
CHANNEL_DROPOUT = 0.2


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
                    "lower": _rounded(facts["p0_5"], facts["std"]),
                    "upper": _rounded(facts["p99_5"], facts["std"]),
                    "mean": _rounded(facts["mean"], facts["std"]),
                    "std": _rounded(facts["std"], facts["std"]),
                }
            )
            words.append(
                f"{name}: HU mean the same everywhere, so clip to the labelled voxels' 0.5 to 99.5 % and scale"
            )
        else:
            entries.append({"kind": "zscore"})
            words.append(f"{name}: intensities have no unit, so each image is z-scored by itself")
    return entries, "; ".join(words)


def _rounded(value: float, scale: float) -> float:
    """Three decimals, and more where the values spread over less than a hundred: attenuation per mm has its digits too."""
    digits = 3 if not 0 < scale < 100 else 5 - math.floor(math.log10(scale))
    return round(value, digits)


def default_optimization(gpu: bool, tokens: bool = True, device: str = "") -> tuple[dict[str, Any], str]:
    """Optimizer and length of training.

    Args:
        gpu: whether a GPU will train it.
        tokens: whether the network has token stages, see `has_tokens`.
        device: the one that was asked for; "" where the machine was looked at.
    """
    found = "a GPU was found" if gpu else "no GPU was found"
    since = f"since device {device} was asked for" if device else f"since {found}"
    length = {"max_epochs": 200 if gpu else 40, "steps_per_epoch": 250 if gpu else 50, "val_interval": 10}
    settings = {"schedule": "poly", "loss": "dice_ce", **length, "early_stop": None}
    if gpu and not tokens:
        # Isensee et al. 2021
        sgd = {
            "optimizer": "sgd",
            "learning_rate": 1e-2,
            "weight_decay": 3e-5,
            "warmup_steps": 0,
            "gradient_clip": 12.0,
        }
        return sgd | settings | {"ema_decay": None}, (
            f"nnU-Net's recipe (SGD with Nesterov momentum 0.99) for a network of convolutions; 50 000 steps, {since}"
        )
    adamw = {
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "warmup_steps": 50,
        "gradient_clip": 1.0,
    }
    if gpu:
        return adamw | settings | {"ema_decay": 0.99}, (
            f"AdamW with warm-up suits networks with token stages; 50 000 steps, {since}"
        )
    why = (
        "suits networks with token stages"
        if tokens
        else "instead of nnU-Net's SGD, whose momentum of 0.99 wants many steps"
    )
    return adamw | settings | {"ema_decay": 0.99}, (
        f"AdamW with warm-up {why}; 2 000 steps, {since} (`--budget` sets another length)"
    )


def has_tokens(preset: str, size: str, spatial_dims: int, project: str | None = None) -> bool:
    """Whether a preset mixes tokens (attention, scans, recurrences) anywhere, or is made of convolutions alone."""
    spec = find_spec(preset, size, spatial_dims, project)
    return any(_mixes(layer) for level in (*spec.levels, *spec.second) for layer in level.layers)


def has_fixed_patch(preset: str, size: str, spatial_dims: int, project: str | None = None) -> bool:
    """Whether a preset's weights belong to one size of patch: channels are its tokens on coarse maps."""
    spec = find_spec(preset, size, spatial_dims, project)
    return any(isinstance(layer, TokensOrChannels) for level in spec.levels for layer in level.layers)


def _mixes(layer: Layer) -> bool:
    if isinstance(layer, str):
        return layer not in CONVOLUTIONS and layer not in CHANNEL_MIXERS  # also a mixer of the user's own
    if isinstance(layer, TokensOrChannels):
        return True
    return isinstance(layer, Replace) or any(_mixes(name) for branch in layer.branches for name in branch)


def choose_augmentation(labels: Sequence[str], spacing: Sequence[float], gpu: bool) -> tuple[dict[str, Any], str]:
    """Strength by the length of training; no mirroring where labels tell left from right."""
    sided = tells_sides(labels)
    settings: dict[str, Any] = {"preset": "default" if gpu else "light"}
    if len(set(spacing)) > 1:
        settings["spacing"] = list(spacing)
    if sided:
        return settings | {"mirror": 0.0}, f"no mirroring, since label {sided!r} tells left from right"
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


def find_warnings(dataset: Dataset, fingerprint: Fingerprint, covered: float) -> list[str]:
    """What a person should look at: scarce context, rare labels, headers that were read with a guess.

    Args:
        dataset, fingerprint: what was measured.
        covered: share of the median case that a crop covers.
    """
    warnings = []
    if covered < 0.02:
        warnings.append(f"a crop covers {covered:.1%} of the median case: context is scarce")
    for fault, count in fingerprint.geometry_faults.items():
        warnings.append(f"{count} of {fingerprint.cases} cases: {fault}")
    for value, label in dataset.labels.items():
        count = fingerprint.label_cases.get(value, 0)
        if value not in (0, dataset.ignore_label) and count < fingerprint.cases:
            warnings.append(f"label {value} ({label}) is in {count} of {fingerprint.cases} cases")
    return warnings
