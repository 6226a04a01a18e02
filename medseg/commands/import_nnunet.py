"""A trained nnU-Net v2 folder -> a bundle: same weights, same preprocessing, same windows, so the same labels.

The folder is the one that holds plans.json, dataset.json and fold_0 ... (plain and residual-encoder 3D configurations).
`medseg predict` follows nnU-Net's windows and its float16 sums exactly (plan.json, inference: placement, importance,
accumulation; set the last to `float32` for unrounded sums); `python -m monai.bundle run` uses MONAI's placement of the windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.bundle.card import license_text, model_card
from medseg.bundle.configs.inference import evaluate_config, inference_config
from medseg.bundle.configs.metadata import make_metadata
from medseg.bundle.weights import load_into
from medseg.bundle.write import LOGGING_CONF
from medseg.config import read_json
from medseg.errors import BundleError, UntrustedBundleError
from medseg.io.atomic import atomic_path, write_json, write_text
from medseg.layout import Layout
from medseg.planning.plan import Plan

RESAMPLING = "resample_data_or_seg_to_shape"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def import_nnunet(
    source: Path, output: Path, fold: str = "all", *, configuration: str | None = None, name: str | None = None
) -> Layout:
    """Turn a trained folder into a bundle.

    Args:
        source: NAME__PLANS__CONFIGURATION with plans.json, dataset.json and fold_N folders.
        output: the bundle's folder.
        fold: a number, `all` for every trained fold (their logits are averaged), or several separated by commas.
        configuration: such as 3d_fullres; default from the folder's name.
        name: the bundle's name; default from the dataset's.

    Raises:
        BundleError: a file is missing, or the configuration is none that can be imported.
        ConfigError: the network uses what is not known here.
        UntrustedBundleError: a checkpoint holds more than tensors and numbers.
    """
    from medseg.networks.imported.nnunet import build_nnunet, own_names

    plans, dataset = _read(source / "plans.json"), _read(source / "dataset.json")
    chosen = _configuration(plans, configuration or source.resolve().name.rpartition("__")[2])
    folds = _folds(source, fold)
    states = [_checkpoint(path) for path in folds.values()]
    plan = _plan(plans, dataset, chosen, states[0], name)
    network = _network_def(chosen, plan)
    layout = Layout(output)
    for state, path in zip(states, folds.values(), strict=True):
        made = build_nnunet(**{key: value for key, value in network.items() if key != "_target_"})
        weights = {key: value for key, value in own_names(state["network_weights"]).items() if key in made.state_dict()}
        load_into(made, weights, path)  # refuses weights that do not fit, before anything is written
        state["own"] = made.state_dict()
    _write(layout, plan, network, _preprocessing_def(plans, chosen))
    files = []
    for number, state in zip(folds, states, strict=True):
        target = layout.weights if len(folds) == 1 else layout.fold_weights(number)
        _save(target, state["own"])
        files.append(target.relative_to(layout.folder).as_posix())
    if len(files) > 1:
        _save(layout.weights, states[0]["own"])  # what `monai.bundle` and exports take
        write_json(layout.inference, {**_read(layout.inference), "models": files})
    return layout


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a trained nnU-Net v2 folder with this file") from error
    except ValueError as error:
        raise BundleError(f"{path}: is not valid JSON: {error}") from error


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration with what it inherits."""
    known = plans.get("configurations", {})
    if name not in known:
        raise BundleError(f"configuration {name!r} is not in plans.json; there are {', '.join(known)}")
    values = dict(known[name])
    if "inherits_from" in values:
        values = {**_configuration(plans, values["inherits_from"]), **values}
    if len(values.get("patch_size", ())) != 3:
        raise BundleError(f"configuration {name!r} is two-dimensional; only 3D configurations can be imported")
    if values.get("previous_stage"):
        raise BundleError(f"configuration {name!r} is the second stage of a cascade, which cannot be imported")
    for what, order in (("data", 3), ("probabilities", 1)):
        function = str(values.get(f"resampling_fn_{what}", RESAMPLING))
        options = {"order": order, "order_z": 0, "force_separate_z": None} | values.get(
            f"resampling_fn_{what}_kwargs", {}
        )
        if function != RESAMPLING or (options["order"], options["order_z"], options["force_separate_z"]) != (
            order,
            0,
            None,
        ):
            raise BundleError(
                f"configuration {name!r} resamples {what} by {function} {options}; only nnU-Net's default can be imported"
            )
    if "architecture" not in values:
        raise BundleError(
            f"configuration {name!r} names no architecture: the plans are older than nnU-Net 2.5; plan anew"
        )
    return values


def _folds(source: Path, fold: str) -> dict[str, Path]:
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


def _checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint without running anything in it; besides tensors only numpy's plain numbers are let in."""
    import pickle

    import numpy as np

    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    plain: list[Any] = [np._core.multiarray.scalar, np.dtype, *kinds]  # type: ignore[attr-defined]
    try:
        with torch.serialization.safe_globals([*plain, (plain[0], "numpy.core.multiarray.scalar")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = " ".join(str(error).split())[:160]
        raise UntrustedBundleError(f"{path}: refused, it holds more than tensors and numbers: {cause}") from error
    if not isinstance(content, dict) or "network_weights" not in content:
        raise BundleError(f"{path}: is no nnU-Net checkpoint (no network_weights)")
    return content


def _labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    labels = {}
    for name, value in dataset["labels"].items():
        if isinstance(value, list):
            raise BundleError(f"label {name!r} is a region {value}; networks for regions cannot be imported")
        if name != "ignore":
            labels[int(value)] = str(name)
    return dict(sorted(labels.items()))


def _plan(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    chosen: Mapping[str, Any],
    state: Mapping[str, Any],
    name: str | None,
) -> Plan:
    title = re.sub(r"[^a-z0-9]+", "_", str(name or plans.get("dataset_name", "nnunet_model")).lower()).strip("_")
    mirror = state.get("inference_allowed_mirroring_axes")
    return Plan(
        name=title,
        data_folder=".",
        spatial_dims=3,
        channels={int(key): str(value) for key, value in dataset["channel_names"].items()},
        labels=_labels(dataset),
        orientation="RAS",
        spacing=[float(v) for v in chosen["spacing"]],
        roi_size=[int(v) for v in chosen["patch_size"]],
        batch_size=int(chosen.get("batch_size", 2)),
        normalization=[],
        network={"preset": str(chosen["architecture"]["network_class_name"]).rpartition(".")[2]},
        optimization={},
        augmentation={"mirror_axes": [int(axis) for axis in mirror] if mirror else []},
        inference={
            "overlap": 0.5,
            "sw_batch_size": 1,
            "placement": "even",
            "importance": "nnunet",
            "accumulation": "nnunet",
            "mirror_axes": [int(axis) for axis in mirror] if mirror else [],
        },
        folds=1,
        splits=[],
        reasons={"network": "imported from a trained nnU-Net v2 folder"},
        reference=str(dataset.get("reference", "")),
        licence=str(dataset.get("licence", dataset.get("license", ""))),
    )


def _network_def(chosen: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    architecture = chosen["architecture"]
    return {
        "_target_": "medseg.components.build_nnunet",
        "network_class": architecture["network_class_name"],
        "arguments": architecture["arch_kwargs"],
        "in_channels": len(plan.channels),
        "out_channels": len(plan.labels),
    }


def _preprocessing_def(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    facts = plans.get("foreground_intensity_properties_per_channel", {})
    wanted = ("mean", "std", "percentile_00_5", "percentile_99_5")
    return {
        "_target_": "medseg.components.NnunetPreprocessing",
        "spacing": list(chosen["spacing"]),
        "normalization": list(chosen["normalization_schemes"]),
        "masked": [bool(value) for value in chosen["use_mask_for_norm"]],
        "intensities": [
            {key: float(facts[str(channel)][key]) for key in wanted if key in facts.get(str(channel), {})}
            for channel in range(len(chosen["normalization_schemes"]))
        ],
        "transpose": list(plans.get("transpose_forward", (0, 1, 2))),
    }


def _write(layout: Layout, plan: Plan, network: dict[str, Any], preprocessing: dict[str, Any]) -> None:
    for path in (layout.configs, layout.models, layout.readme.parent):
        path.mkdir(parents=True, exist_ok=True)
    shared = {"network_def": network, "preprocessing_def": preprocessing}
    write_json(layout.metadata, make_metadata(plan))
    write_json(layout.inference, {**inference_config(plan), **shared})
    write_json(layout.evaluate, {**evaluate_config(plan), **shared})
    write_json(layout.splits, plan.splits)
    write_text(layout.logging, LOGGING_CONF)
    write_text(layout.license, license_text(plan))
    write_text(layout.readme, model_card(plan))
    plan.write(layout.plan)


def _save(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)
