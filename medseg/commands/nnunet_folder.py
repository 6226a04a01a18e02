"""A trained nnU-Net v2 folder as it lies on a disk: its files read and judged, before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.bundle.weights import read_tensors
from medseg.config import read_json
from medseg.documents import first_break
from medseg.errors import BundleError, ConfigError

RESAMPLING = "resample_data_or_seg_to_shape"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
REMEDY = "expected what nnU-Net v2.5 or later writes; export the model anew"

_TABLE = {"type": "object"}
_WORDS = {"type": "array", "maxItems": 1000, "items": {"type": "string"}}
PLANS: dict[str, Any] = {
    "type": "object",
    "required": ["configurations"],
    "properties": {
        "dataset_name": {"type": "string"},
        "configurations": {"type": "object", "maxProperties": 1000, "additionalProperties": _TABLE},
        "transpose_forward": {
            "type": "array", "minItems": 3, "maxItems": 3, "items": {"enum": [0, 1, 2]}, "uniqueItems": True
        },
        "foreground_intensity_properties_per_channel": {
            "type": "object",
            "maxProperties": 1000,
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    },
}  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    "type": "object",
    "required": ["patch_size", "spacing", "normalization_schemes", "use_mask_for_norm"],
    "properties": {
        "patch_size": {"type": "array", "maxItems": 3, "items": {"type": "integer", "minimum": 1, "maximum": 65536}},
        "spacing": {"type": "array", "maxItems": 3, "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e4}},
        "batch_size": {"type": "integer", "minimum": 1, "maximum": 100000},
        "normalization_schemes": _WORDS,
        "use_mask_for_norm": {"type": "array", "maxItems": 1000, "items": {"type": "boolean"}},
        "previous_stage": {"type": ["string", "null"]},
        "resampling_fn_data_kwargs": _TABLE,
        "resampling_fn_probabilities_kwargs": _TABLE,
        "architecture": {
            "type": "object",
            "required": ["network_class_name", "arch_kwargs"],
            "properties": {"network_class_name": {"type": "string"}, "arch_kwargs": _TABLE},
        },
    },
}
DATASET: dict[str, Any] = {
    "type": "object",
    "required": ["labels", "channel_names"],
    "properties": {
        "labels": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 10000,
            "additionalProperties": {
                "anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "array", "maxItems": 10000}]
            },
        },
        "channel_names": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1000,
            "propertyNames": {"pattern": "\\A[0-9]{1,4}\\Z"},
            "additionalProperties": {"type": "string"},
        },
    },
}


def read_part(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """plans.json or dataset.json, its types checked.

    Raises:
        BundleError: missing, no JSON, or a value of another type; the message names the file.
    """
    try:
        content: dict[str, Any] = read_json(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a trained nnU-Net v2 folder with this file") from error
    except ConfigError as error:
        raise BundleError(str(error)) from error
    fault = first_break(content, schema)
    if fault:
        raise BundleError(f"{path}: {fault}; {REMEDY}")
    return content


def configuration(plans: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """One configuration with what it inherits.

    Raises:
        BundleError: not there, inherits in a circle, or none that can be imported.
    """
    values = _inherited(plans["configurations"], name, path)
    fault = first_break(values, CONFIGURATION)
    if fault:
        raise BundleError(f"{path}: configuration {name!r}: {fault}; {REMEDY}")
    whose = f"{path}: configuration {name!r}"
    if len(values["patch_size"]) != 3 or len(values["spacing"]) != 3:
        raise BundleError(f"{whose} is two-dimensional; only 3D configurations can be imported")
    if values.get("previous_stage"):
        raise BundleError(f"{whose} is the second stage of a cascade, which cannot be imported")
    for what, order in (("data", 3), ("probabilities", 1)):
        function = str(values.get(f"resampling_fn_{what}", RESAMPLING))
        options = {"order": order, "order_z": 0, "force_separate_z": None} | values.get(
            f"resampling_fn_{what}_kwargs", {}
        )
        found = (options["order"], options["order_z"], options["force_separate_z"])
        if function != RESAMPLING or found != (order, 0, None):
            raise BundleError(
                f"{whose} resamples {what} by {function[:80]} {str(options)[:200]}; only nnU-Net's default can be imported"
            )
    if "architecture" not in values:
        raise BundleError(f"{whose} names no architecture: the plans are older than nnU-Net 2.5; plan anew")
    if len(values["normalization_schemes"]) != len(values["use_mask_for_norm"]):
        raise BundleError(f"{whose}: use_mask_for_norm and normalization_schemes differ in length; {REMEDY}")
    return values


def _inherited(known: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    visited: list[str] = []
    step: Any = name
    while step is not None:
        if not isinstance(step, str) or step not in known:
            listing = ", ".join(list(known)[:20])
            raise BundleError(f"{path}: configuration {str(step)[:100]!r} is not in plans.json; there are {listing}")
        if step in visited:
            raise BundleError(f"{path}: configuration {step!r} inherits from itself ({' -> '.join(visited)} -> {step})")
        visited.append(step)
        values = {**known[step], **values}
        step = known[step].get("inherits_from")
    return values


def folds_of(source: Path, fold: str) -> dict[str, Path]:
    """Fold -> its checkpoint, for the wanted folds.

    Raises:
        BundleError: one of them is not there.
    """
    wanted = None if fold == "all" else [part.strip() for part in str(fold).split(",")]
    found = {}
    for folder in sorted(source.glob("fold_*")):
        number = folder.name.removeprefix("fold_")
        path = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
        if path is not None and (wanted is None or number in wanted):
            found[number] = path
    if not found or (wanted is not None and len(found) < len(wanted)):
        raise BundleError(f"{source}: has no trained fold {fold}; expected fold_N/{CHECKPOINTS[0]}")
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint without running anything in it; besides tensors only numpy's plain numbers are let in.

    Raises:
        BundleError: broken, or no checkpoint of nnU-Net.
        UntrustedBundleError: it holds more than tensors and numbers.
    """
    import numpy as np

    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    plain: list[Any] = [np._core.multiarray.scalar, np.dtype, *kinds]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals([*plain, (plain[0], "numpy.core.multiarray.scalar")]):
        content = read_tensors(path)
    if not isinstance(content, dict) or "network_weights" not in content:
        raise BundleError(f"{path}: is no nnU-Net checkpoint (no network_weights)")
    weights = content["network_weights"]
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise BundleError(f"{path}: network_weights is a {type(weights).__name__}, expected tensors by name; {REMEDY}")
    mirror = content.get("inference_allowed_mirroring_axes")
    axes = mirror if isinstance(mirror, (list, tuple)) else [] if mirror is None else [None]
    if not all(isinstance(axis, int) and axis in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
        raise BundleError(
            f"{path}: inference_allowed_mirroring_axes is {str(mirror)[:80]!r}, expected axes among 0, 1, 2"
        )
    return content
