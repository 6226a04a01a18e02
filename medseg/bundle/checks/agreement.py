"""Checks between files: training, prediction, metadata, plan and folds must tell one story."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medseg.config import read_json
from medseg.layout import Layout
from medseg.planning.plan import Plan
from medseg.selection.averaging import own_network

from ..configs.inference import SHARED_KEYS, channel_names, preprocessing_def


def _difference(first: object, second: object, where: str) -> str:
    """The first place where two JSON values differ, with both values."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in [*first, *(key for key in second if key not in first)]:
            if first.get(key) != second.get(key):
                return _difference(first.get(key), second.get(key), f"{where}::{key}")
    return f"{where} is {json.dumps(first)} against {json.dumps(second)}"


def check_drift(layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Network and preprocessing are the same in training, prediction and evaluation, and so are the windows."""
    if "train.json" not in configs or not layout.plan.is_file():
        return []
    faults = []
    train = configs["train.json"]
    for other in ("inference.json", "evaluate.json"):
        config = configs.get(other, {})
        for key in SHARED_KEYS:
            found = config.get(key)
            if key == "network_def" and isinstance(found, Mapping):
                found = own_network(found)
            if config and found != train.get(key):
                faults.append(f"train.json and {other} differ: {_difference(train.get(key), found, key)}")
    plan = Plan.read(layout.plan)
    for name, config in configs.items():
        found = config.get("roi_size")
        if found is not None and list(found) != list(plan.roi_size):
            faults.append(f"{name}: roi_size is {found}, plan.json has {list(plan.roi_size)}")
    spacing = train.get("preprocessing_def", {}).get("spacing")
    expected = preprocessing_def(plan)["spacing"]
    if spacing is not None and list(spacing) != expected:
        faults.append(f"train.json: preprocessing_def::spacing is {spacing}, plan.json has {expected}")
    return faults


def check_formats(layout: Layout, metadata: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """metadata.json's channels are those of the network, and its label names those of the plan."""
    faults = []
    formats = metadata["network_data_format"]
    network = own_network(configs.get("inference.json", {}).get("network_def", {}))
    sides = (("inputs", "image", "in_channels"), ("outputs", "pred", "out_channels"))
    for side, tensor, argument in sides:
        found = formats[side].get(tensor, {})
        count = found.get("num_channels")
        if argument in network and network[argument] != count:
            faults.append(
                f"metadata.json: {side}::{tensor}::num_channels is {count}, inference.json's network_def::{argument} "
                f"is {network[argument]}"
            )
        names = found.get("channel_def")
        if names is not None and len(names) != count:
            faults.append(f"metadata.json: {side}::{tensor} has {count} channels and {len(names)} names for them")
    if layout.plan.is_file():
        plan = Plan.read(layout.plan)
        expected = {str(channel): name for channel, name in enumerate(channel_names(plan))}
        names = formats["outputs"].get("pred", {}).get("channel_def")
        if names is not None and dict(names) != expected:
            faults.append(f"metadata.json and plan.json differ: {_difference(names, expected, 'labels')}")
    return faults


def check_splits(layout: Layout) -> list[str]:
    """No case is in both parts of a fold, and every fold has both parts."""
    if not layout.splits.is_file():
        return []
    splits = read_json(layout.splits)
    if not isinstance(splits, list):
        return ["configs/splits.json: is no list of folds"]
    faults = []
    for number, fold in enumerate(splits):
        train, val = set(fold.get("train", [])), set(fold.get("val", []))
        shared = sorted(train & val)
        if shared:
            faults.append(f"configs/splits.json, fold {number}: {shared[0]!r} is in both train and val")
        if not train or not val:
            faults.append(f"configs/splits.json, fold {number}: train or val is empty")
    return faults
