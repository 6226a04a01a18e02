"""Is plan.json a plan? Its schema, then what a schema cannot say: that its parts do not contradict each other."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from medseg.documents import first_break

MOST_VOXELS = 1 << 31  # of one window; a GPU of 80 GB holds a thousandth of that in one network


@functools.cache
def plan_schema() -> dict[str, Any]:
    """The types and ranges of every value, shipped with the package."""
    return json.loads(files("medseg.planning").joinpath("plan_schema.json").read_text(encoding="utf-8"))


def plan_fault(values: Any) -> str | None:
    """The first thing that is wrong with the content of a plan.json, or None.

    Example:
        >>> plan_fault([])
        "top level: [] is not of type 'object'"
    """
    found = first_break(values, plan_schema())
    return found or next(_contradictions(values), None)


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    dims = values["spatial_dims"]
    channels, labels = values["channels"], {int(value) for value in values["labels"]}
    if sorted(int(channel) for channel in channels) != list(range(len(channels))):
        yield f"channels: are numbered {', '.join(list(channels)[:5])}, expected 0, 1, 2, ..."
    if len({axis for letter in values["orientation"] for axis in ("LR", "AP", "IS") if letter in axis}) != 3:
        yield f"orientation: {values['orientation']!r} names an axis twice, expected one of L/R, A/P and I/S each"
    if values["normalization"] and len(values["normalization"]) != len(channels):
        yield f"normalization: has {len(values['normalization'])} entries for {len(channels)} channels"
    yield from _outputs(values, labels)
    for name, part in (("", values), ("low_resolution::", values.get("low_resolution") or {})):
        yield from _window(name, part, dims, len(channels), len(values.get("regions") or labels))
    if any(axis >= dims for axis in values["inference"].get("mirror_axes", [])):
        yield f"inference::mirror_axes: names an axis beyond the {dims} dimensions"
    yield from _splits(values["splits"], values["folds"])


def _outputs(values: Mapping[str, Any], labels: set[int]) -> Iterator[str]:
    ignored = values.get("ignore_label")
    if ignored is not None and ignored in labels:
        yield f"ignore_label: {ignored} is one of the labels too"
    for number, region in enumerate(values.get("regions") or []):
        unknown = sorted({*region["labels"], region["label"]} - labels)
        if unknown:
            yield f"regions::{number}: names the label {unknown[0]}, which labels does not have"


def _window(name: str, part: Mapping[str, Any], dims: int, channels: int, outputs: int) -> Iterator[str]:
    if not part:
        return
    if len(part["roi_size"]) != dims:
        yield f"{name}roi_size: has {len(part['roi_size'])} extents, expected {dims} (spatial_dims)"
    if len(part["spacing"]) < dims:
        yield f"{name}spacing: has {len(part['spacing'])} steps, expected {dims} or 3"
    if math.prod(part["roi_size"]) > MOST_VOXELS:
        yield f"{name}roi_size: {part['roi_size']} has more than {MOST_VOXELS} voxels"
    network = part["network"]
    for key, count, what in (("in_channels", channels, "channels"), ("out_channels", outputs, "outputs")):
        if network.get(key, count) != count:
            yield f"{name}network::{key}: is {network[key]}, the plan names {count} {what}"
    if network.get("spatial_dims", dims) != dims:
        yield f"{name}network::spatial_dims: is {network['spatial_dims']}, the plan has {dims}"


def _splits(splits: list[Any], folds: int) -> Iterator[str]:
    """Folds, looked at here: a schema takes seconds for the names of ten thousand cases."""
    if splits and len(splits) != folds:
        yield f"splits: has {len(splits)} folds, folds is {folds}"
    for number, split in enumerate(splits):
        parts = [split.get(part) for part in ("train", "val")] if isinstance(split, dict) else [None]
        if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in parts):
            yield f'splits::{number}: expected {{"train": [names], "val": [names]}}'
