"""The ids that MONAI's tools look for in train.json and inference.json, checked as data.

MONAI's own `check_properties()` builds every component to see whether it is there: it reads the dataset and starts a
trainer. This looks at the ids and at the places that must refer to them, and gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.config import ABSENT, look_up

WORKFLOWS = {"train.json": "train", "inference.json": "infer", "evaluate.json": "infer"}


def property_faults(name: str, config: Mapping[str, Any]) -> list[str]:
    """Required ids that are missing, and optional ones that exist but are not referred to where they must be."""
    if name not in WORKFLOWS:
        return []
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundleProperty, BundlePropertyConfig

    table = TrainProperties if WORKFLOWS[name] == "train" else InferProperties
    faults = []
    for word, rule in table.items():
        key = rule[BundlePropertyConfig.ID]
        if rule[BundleProperty.REQUIRED] and look_up(config, key) in (ABSENT, None):
            faults.append(f"{name}: has no {key}, which every {WORKFLOWS[name]} workflow must have ({word})")
        place = rule.get(BundlePropertyConfig.REF_ID)
        reference = look_up(config, place) if place else None
        if isinstance(reference, str) and not reference.startswith("$") and reference != f"@{key}":
            faults.append(f"{name}: {place} is {reference!r}; it must refer to @{key}")
    return faults
