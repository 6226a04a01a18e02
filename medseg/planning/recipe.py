"""Everything of a plan that does not depend on the grid: normalization, training, augmentation, regions, warnings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medseg.datasets import Dataset

from .fingerprint import Fingerprint

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


def find_warnings(dataset: Dataset, fingerprint: Fingerprint, covered: float) -> list[str]:
    """What a person should look at: scarce context, rare labels.

    Args:
        dataset, fingerprint: what was measured.
        covered: share of the median case that a crop covers.
    """
    warnings = []
    if covered < 0.02:
        warnings.append(f"a crop covers {covered:.1%} of the median case: context is scarce")
    for value, label in dataset.labels.items():
        count = fingerprint.label_cases.get(value, 0)
        if value > 0 and count < fingerprint.cases:
            warnings.append(f"label {value} ({label}) is in {count} of {fingerprint.cases} cases")
    return warnings
