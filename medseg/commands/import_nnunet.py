"""A trained nnU-Net v2 folder -> a bundle: same weights, same preprocessing, same windows, so the same labels.

The folder is the one that holds plans.json, dataset.json and fold_0 ... (plain and residual-encoder 3D configurations).
`medseg predict` follows nnU-Net's windows and its float16 sums exactly (plan.json, inference: placement, importance,
accumulation; set the last to `float32` for unrounded sums); `python -m monai.bundle run` uses MONAI's placement of the windows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.bundle.card import license_text, model_card
from medseg.bundle.configs.inference import evaluate_config, inference_config
from medseg.bundle.configs.metadata import make_metadata
from medseg.bundle.made_here import note_made
from medseg.bundle.weights import load_into, refuse_faults, refuse_misfit
from medseg.bundle.write import LOGGING_CONF
from medseg.errors import BundleError, MedsegError
from medseg.io.atomic import atomic_path, write_json, write_text
from medseg.layout import Layout
from medseg.planning.plan import Plan
from medseg.planning.plan_check import plan_fault
from medseg.selection.averaging import use_networks

from .nnunet_folder import DATASET, PLANS, REMEDY, folds_of, read_checkpoint, read_part
from .nnunet_folder import configuration as named


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
    plans_file, dataset_file = source / "plans.json", source / "dataset.json"
    plans, dataset = read_part(plans_file, PLANS), read_part(dataset_file, DATASET)
    chosen = named(plans, configuration or source.resolve().name.rpartition("__")[2], plans_file)
    folds = folds_of(source, fold)
    states = [read_checkpoint(path) for path in folds.values()]
    plan = _plan(plans, dataset, chosen, states[0], name, dataset_file)
    network, preprocessing = _network_def(chosen, plan), _preprocessing_def(plans, chosen)
    _try_preprocessing(preprocessing, plan, plans_file)
    layout = Layout(output)
    for state, path in zip(states, folds.values(), strict=True):
        state["own"] = _fitted(network, state["network_weights"], path, plans_file)
    _write(layout, plan, network, preprocessing)
    files = []
    for number, state in zip(folds, states, strict=True):
        target = layout.weights if len(folds) == 1 else layout.fold_weights(number)
        _save(target, state["own"])
        files.append(target.relative_to(layout.folder).as_posix())
    if len(files) > 1:
        use_networks(layout, files, {})
    note_made(layout.folder)
    return layout


def _fitted(
    network: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: Path, plans_file: Path
) -> dict[str, torch.Tensor]:
    """The network's own state with a checkpoint's weights; refused before a plan of absurd widths takes any memory."""
    from medseg.networks.imported.nnunet import build_nnunet, own_names

    arguments = {key: value for key, value in network.items() if key != "_target_"}
    try:
        with torch.device("meta"):
            sketch = build_nnunet(**arguments).state_dict()
    except MedsegError as error:
        raise type(error)(f"{plans_file}: {error}") from error
    except (RuntimeError, ValueError, TypeError) as error:  # shapes that no convolution has
        raise BundleError(f"{plans_file}: the network cannot be built: {' '.join(str(error).split())[:160]}") from error
    own = {key: value for key, value in own_names(weights).items() if key in sketch}
    refuse_faults(own, path)
    refuse_misfit(sketch, own, path)
    made = build_nnunet(**arguments)
    load_into(made, own, path)
    return made.state_dict()


def _try_preprocessing(preprocessing: Mapping[str, Any], plan: Plan, plans_file: Path) -> None:
    from medseg.transforms.nnunet_preprocessing import NnunetPreprocessing

    if len(preprocessing["normalization"]) != len(plan.channels):
        raise BundleError(
            f"{plans_file}: has {len(preprocessing['normalization'])} normalization schemes, dataset.json names "
            f"{len(plan.channels)} channels; {REMEDY}"
        )
    try:
        NnunetPreprocessing(**{key: value for key, value in preprocessing.items() if key != "_target_"})
    except Exception as error:
        raise BundleError(
            f"{plans_file}: its normalization cannot be used: {str(error)[:160] or type(error).__name__}"
        ) from error


def _labels(dataset: Mapping[str, Any], path: Path) -> dict[int, str]:
    labels: dict[int, str] = {}
    for name, value in dataset["labels"].items():
        if isinstance(value, list):
            raise BundleError(
                f"{path}: label {name[:80]!r} is a region {str(value)[:80]}; networks for regions cannot be imported"
            )
        if value in labels:
            raise BundleError(f"{path}: labels {labels[value]!r} and {name!r} have the same value {value}")
        if name != "ignore":
            labels[value] = name
    return dict(sorted(labels.items()))


def _plan(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    chosen: Mapping[str, Any],
    state: Mapping[str, Any],
    name: str | None,
    dataset_file: Path,
) -> Plan:
    title = re.sub(r"[^a-z0-9]+", "_", str(name or plans.get("dataset_name", "nnunet_model")).lower()).strip("_")
    mirror = state.get("inference_allowed_mirroring_axes")
    plan = Plan(
        name=title,
        data_folder=".",
        spatial_dims=3,
        channels={int(key): str(value) for key, value in dataset["channel_names"].items()},
        labels=_labels(dataset, dataset_file),
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
    fault = plan_fault(json.loads(json.dumps(plan.to_dict())))
    if fault:
        raise BundleError(f"{dataset_file}: makes no plan: {fault}; {REMEDY}")
    return plan


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
