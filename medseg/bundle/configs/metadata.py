"""metadata.json: what the model takes, gives, was made with and is for; and its check without a network."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from medseg.config import read_json
from medseg.documents import breaks, sentence
from medseg.errors import BundleError, ConfigError
from medseg.io.atomic import write_text
from medseg.layout import Layout
from medseg.planning.plan import Plan

from .inference import channel_names

# The public address of the rules; a published bundle names it, `place_schema` makes it work without a network.
SCHEMA_URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

# What inference.json needs beside torch, numpy and MONAI. The model zoo's CI installs exactly these versions.
REQUIRED_PACKAGES = ("medseg", "pytorch-ignite", "nibabel", "SimpleITK")

# What a bundle may leave out and still be opened; `bundle verify` asks for it.
LENIENT = ("required", "minLength", "pattern", "minProperties", "minItems")


def _version(package: str) -> str:
    """The installed version without a local part such as +cpu."""
    return importlib.metadata.version(package).split("+")[0]


def _image_format(plan: Plan) -> dict[str, Any]:
    modalities = sorted(set(plan.channels.values()))
    is_ct = any("ct" in modality.lower().split() for modality in modalities)
    return {
        "type": "image",
        "format": "hounsfield" if is_ct else "magnitude",
        "modality": "/".join(modalities),
        "num_channels": len(plan.channels),
        "spatial_shape": [int(extent) for extent in plan.roi_size],
        "dtype": "float32",
        "value_range": [],  # unknown, as the specification writes it: z-scores and Hounsfield units have no fixed bounds
        "is_patch_data": True,
        "channel_def": {str(channel): str(modality) for channel, modality in plan.channels.items()},
    }


def _label_format(plan: Plan) -> dict[str, Any]:
    names = channel_names(plan)
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(names),
        "spatial_shape": [int(extent) for extent in plan.roi_size],
        "dtype": "float32",
        "value_range": [],  # logits
        "is_patch_data": True,
        # channels of the network's output in order; the label VALUES are in plan.json
        "channel_def": {str(channel): name for channel, name in enumerate(names)},
    }


def make_metadata(plan: Plan, *, version: str = "0.1.0") -> dict[str, Any]:
    """metadata.json of a planned bundle; passes `check_metadata` and `verify_net_in_out` as it is."""
    organs = ", ".join(name for value, name in sorted(plan.labels.items()) if value != 0)
    modality = "/".join(sorted(set(plan.channels.values())))
    return {
        "schema": SCHEMA_URL,
        "name": plan.name,
        "version": version,
        "changelog": {version: "planned by medseg"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {package: _version(package) for package in REQUIRED_PACKAGES},
        "supported_apps": {},
        "task": f"segmentation of {organs} in {modality}",
        "description": f"A {plan.network_name} network that labels {organs} in {modality} volumes.",
        "authors": "see docs/README.md",
        "copyright": "see LICENSE",
        "data_source": plan.reference or "not stated",
        "data_type": "NIfTI",
        "image_classes": f"{len(plan.channels)} channel(s): {', '.join(plan.channels.values())}",
        "label_classes": ", ".join(f"{value} is {name}" for value, name in sorted(plan.labels.items())),
        "pred_classes": f"{len(channel_names(plan))} channels, one logit per "
        + ("overlapping region" if plan.regions else "label in the order of the label values"),
        "eval_metrics": {},
        "intended_use": "Research. Not a medical device; not for diagnosis or treatment.",
        "references": [plan.reference] if plan.reference else [],
        "network_data_format": {
            "inputs": {"image": _image_format(plan)},
            "outputs": {"pred": _label_format(plan)},
        },
    }


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json of a bundle folder, its types and ranges checked.

    Words that only `bundle verify` asks for (an author, a copyright) may be missing: many bundles predate the schema.

    Raises:
        BundleError: missing, no JSON object, a value of another type than the schema's, or channels that contradict
            their names.
    """
    path = Layout(folder).metadata
    try:
        metadata = read_json(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); is {folder} a bundle?") from error
    except ConfigError as error:
        raise BundleError(str(error)) from error
    if not isinstance(metadata, dict):
        raise BundleError(f"{path}: holds a {type(metadata).__name__}, expected an object")
    fault = next((sentence(error) for error in breaks(metadata, schema()) if error.validator not in LENIENT), None)
    if fault or (fault := next(_contradictions(metadata), None)):
        raise BundleError(f"{path}: {fault}; correct it, or ask the bundle's author")
    return metadata


@functools.cache
def schema() -> dict[str, Any]:
    """The rules that metadata.json is checked against, shipped with the package."""
    return json.loads(files("medseg.bundle.configs").joinpath("meta_schema.json").read_text(encoding="utf-8"))


def _contradictions(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Names of channels that are not there."""
    formats = metadata.get("network_data_format", {})
    for side in ("inputs", "outputs"):
        for name, tensor in formats.get(side, {}).items():
            names, count = tensor.get("channel_def"), tensor.get("num_channels")
            if names and count is not None and max(int(channel) for channel in names) >= count:
                where = f"network_data_format::{side}::{name}"
                yield f"{where}: has {count} channels and a name for channel {max(int(channel) for channel in names)}"


def place_schema(folder: Path) -> Path:
    """Write the schema where MONAI's `verify_metadata` looks before it downloads; returns that path for --filepath."""
    path = Layout(folder).schema
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(schema(), indent=2) + "\n")
    return path


def metadata_faults(metadata: Mapping[str, Any]) -> list[str]:
    """Every break of the schema and of the model zoo's rule on the changelog, one sentence each; empty when it passes."""
    found = sorted(breaks(metadata, schema()), key=lambda fault: [str(step) for step in fault.absolute_path])
    faults = [f"metadata.json, {sentence(error)}" for error in found]
    if metadata.get("version") not in (metadata.get("changelog") or {}):
        faults.append(f"metadata.json, changelog: has no entry for version {metadata.get('version')!r}")
    return faults
