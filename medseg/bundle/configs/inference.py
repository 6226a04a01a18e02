"""inference.json and evaluate.json: plain MONAI (SupervisedEvaluator), because every other tool reads exactly that.

The network, the preprocessing, the sliding window and the way back to the source grid are medseg's own, each a value with a
`_target_`. So `python -m monai.bundle run` and `medseg predict` share one code.
"""

from __future__ import annotations

from typing import Any

from medseg.config import TARGET
from medseg.planning.plan import Plan
from medseg.transforms.classes import class_values, label_dtype

from .deciding import mirrored_in_training

# Keys that train.json and inference.json must agree on; `medseg bundle verify` compares them.
SHARED_KEYS = ("network_def", "preprocessing_def")


def network_def(plan: Plan) -> dict[str, Any]:
    """The network as a component; all arguments in sight, so that an override can name any of them.

    One of the user's own classes has the arguments that it has.
    """
    if TARGET in plan.network:
        return dict(plan.network)
    arguments = {
        "spatial_dims": plan.spatial_dims,
        "in_channels": len(plan.channels),
        "out_channels": len(plan.regions) or len(plan.labels),
        **plan.network,
    }
    if "sites" in plan.network:
        return {"_target_": "medseg.components.build_split_network", **arguments}
    return {"_target_": "medseg.components.build_network", **arguments}


def channel_labels(plan: Plan) -> list[int]:
    """Label value of each output channel: the declared values in order, or 0, 1, 2 ... where there are more channels.

    With regions: what each of them writes.
    """
    if plan.regions:
        return [int(region["label"]) for region in plan.regions]
    channels = int(network_def(plan)["out_channels"])
    values = sorted(plan.labels)
    return values if len(values) == channels else list(range(channels))


def channel_names(plan: Plan) -> list[str]:
    """Name of each output channel: a region's or a label's."""
    if plan.regions:
        return [str(region["name"]) for region in plan.regions]
    return [plan.labels.get(value, "unused") for value in channel_labels(plan)]


def preprocessing_def(plan: Plan) -> dict[str, Any]:
    """What happens to an image before the network, in training and in prediction alike."""
    if plan.preprocessing:
        return dict(plan.preprocessing)
    spacing: list[float | None] = list(plan.spacing)
    if plan.spatial_dims == 2:
        spacing[2] = None  # slices are computed one by one, whatever lies between them
    return {
        "_target_": "medseg.components.Preprocessing",
        "spacing": spacing,
        "normalization": [dict(entry) for entry in plan.normalization],
        "orientation": plan.orientation,
    }


def _places(plan: Plan) -> dict[str, Any]:
    return {
        "bundle_root": {"_target_": "medseg.components.find_bundle_root", "name": plan.name},
        # a string expression on purpose: MONAI's `--tracking` appends text to it
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": plan.data_folder,
        "device": {"_target_": "medseg.components.choose_device", "name": "auto"},
    }


def _window(plan: Plan) -> dict[str, Any]:
    settings = plan.inference
    return {
        # flat, so that MONAI Label can show them as options
        "displayable_configs": {
            "overlap": float(settings.get("overlap", 0.5)),
            "sw_batch_size": int(settings.get("sw_batch_size", 1)),
        },
        "roi_size": [int(extent) for extent in plan.roi_size],
        "inferer": {
            "_target_": "medseg.components.SlidingWindowInferer",
            "roi_size": "@roi_size",
            "sw_batch_size": "@displayable_configs::sw_batch_size",
            "overlap": "@displayable_configs::overlap",
            "mode": str(settings.get("importance", "gaussian")),
            "placement": str(settings.get("placement", "regular")),
            "mirror_axes": [int(axis) for axis in settings.get("mirror_axes", [])],
            "accumulation": str(settings.get("accumulation", "float32")),
        },
        # what `medseg predict --mirror` may ask for: mirror images that training showed the network
        "allowed_mirror_axes": list(mirrored_in_training(plan.augmentation, plan.spatial_dims)),
        # training saw cases that lack a channel, so prediction takes them too
        **({"missing_channels": plan.missing_channels} if plan.missing_channels != "error" else {}),
    }


def _model(plan: Plan) -> dict[str, Any]:
    return {
        "network_def": network_def(plan),
        "network": "$@network_def.to(@device)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "preprocessing_def": preprocessing_def(plan),
    }


def _read(keys: str) -> list[dict[str, Any]]:
    # through our own door: MONAI's readers take a file with a broken checksum or a sheared affine without a word
    return [
        {"_target_": "LoadImaged", "keys": keys, "reader": {"_target_": "medseg.components.VolumeReader"}},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
    ]


def _image_steps() -> list[dict[str, Any]]:
    return [
        *_read("image"),
        {
            "_target_": "medseg.components.Preprocessd",
            "keys": "image",
            "preprocessing": "@preprocessing_def",
        },
    ]


def _to_source_grid(plan: Plan) -> dict[str, Any]:
    return {
        "_target_": "medseg.components.RestoreLabeld",
        "keys": "pred",
        "image_key": "image",
        "labels": channel_labels(plan),
        **({"regions": True} if plan.regions else {}),
        "accumulation": "@inferer::accumulation",
    }


def _evaluator(*, key_metric: bool) -> dict[str, Any]:
    evaluator = {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": False,
    }
    return evaluator | ({"key_val_metric": "@key_metric"} if key_metric else {})


def _dataset(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": {"_target_": "Dataset", "data": source, "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
    }


def _load_weights() -> dict[str, Any]:
    # Never `_disabled_` when the file is missing, as many bundles have it: that predicts with random weights in silence.
    return {"_target_": "CheckpointLoader", "load_path": "@checkpoint", "load_dict": {"model": "@network"}}


def inference_config(plan: Plan) -> dict[str, Any]:
    """inference.json: label maps of all images in `dataset_dir`, on their own grids, into `output_dir`."""
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_ext": ".nii.gz",
        "output_dtype": label_dtype(max(plan.labels)).__name__,
        "separate_folder": False,
        "resample": False,
        "print_log": False,
    }
    return {
        **_places(plan),
        **_window(plan),
        **_model(plan),
        "preprocessing": {"_target_": "Compose", "transforms": _image_steps()},
        **_dataset({"_target_": "medseg.components.list_images", "folder": "@dataset_dir"}),
        "postprocessing": {"_target_": "Compose", "transforms": [_to_source_grid(plan), save]},
        "handlers": [_load_weights()],
        "evaluator": _evaluator(key_metric=False),
        "run": ["$@evaluator.run()"],
    }


def evaluate_config(plan: Plan) -> dict[str, Any]:
    """evaluate.json: mean Dice of one fold's validation cases on their own grids; metrics as CSV in `output_dir`."""
    values = class_values(plan.labels)
    classes: dict[str, Any] = {"_target_": "MapLabelValued", "keys": ["pred", "label"]}
    classes |= {"orig_labels": list(values), "target_labels": list(range(len(values)))}
    # One-hot maps of the values themselves would be as many as the largest value.
    gaps = values != tuple(range(len(values)))
    take_both = "$monai.handlers.from_engine(['pred', 'label'])"
    dice = {
        "_target_": "MeanDice",
        "include_background": False,
        "num_classes": len(values),
        "output_transform": take_both,
    }
    save_metrics = {
        "_target_": "MetricsSaver",
        "save_dir": "@output_dir",
        "metrics": ["val_mean_dice"],
        "metric_details": ["val_mean_dice"],
        "batch_transform": {"_target_": "medseg.components.case_names", "_mode_": "callable"},
        "summary_ops": "*",
    }
    source = {
        "_target_": "medseg.components.list_labelled",
        "folder": "@dataset_dir",
        "bundle_root": "@bundle_root",
        "fold": "@fold",
    }
    return {
        **_places(plan),
        "fold": 0,
        **_window(plan),
        **_model(plan),
        "preprocessing": {"_target_": "Compose", "transforms": _image_steps() + _read("label")},
        **_dataset(source),
        "postprocessing": {"_target_": "Compose", "transforms": [_to_source_grid(plan), *([classes] if gaps else [])]},
        "key_metric": {"val_mean_dice": dice},
        "handlers": [_load_weights(), save_metrics],
        "evaluator": _evaluator(key_metric=True),
        "run": ["$@evaluator.run()"],
    }
