"""train.json: Lightning trains, but every id that MONAI's tools look for is where they expect it."""

from __future__ import annotations

from typing import Any

from medseg.planning.plan import Plan

from .inference import network_def, preprocessing_def

# Settings of `plan.optimization` that are arguments of the module; the others belong to the trainer or the data.
MODULE_KEYS = ("loss", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup_steps", "deep_supervision")
TRAINER_KEYS = ("gradient_clip", "ema_decay")


def train_config(plan: Plan) -> dict[str, Any]:
    """The whole of train.json; declarative but for two string expressions that MONAI's own tools need."""
    return {
        **_settings(plan),
        "preprocessing_def": preprocessing_def(plan),
        "network_def": network_def(plan),
        "network": "@network_def",  # MONAI Label loads pretrained weights into this id
        "train": {
            "inferer": _inferer(plan),
            "dataset": _dataset(plan),
            "module": _module(plan),
            "data": _data(),
            "handlers": [],
            "trainer": _trainer(plan),
        },
        "validate": {
            "dataset": {"_target_": "medseg.components.ValidationDataset", **_source(plan)},
            "inferer": "@train::inferer",
            "handlers": [],
        },
        "run": _run(),
    } | ({"project": plan.project} if plan.project else {})


def _settings(plan: Plan) -> dict[str, Any]:
    """What a person is likely to override, flat at the top."""
    settings = plan.optimization
    return {
        "bundle_root": {"_target_": "medseg.components.find_bundle_root", "name": plan.name},
        "output_dir": "$@bundle_root + '/runs'",
        "dataset_dir": plan.data_folder,
        "device": {"_target_": "medseg.components.choose_device", "name": "auto"},
        "fold": 0,
        "seed": 0,
        "resume": False,
        "budget_s": settings.get("budget_s"),
        "pretrained": None,
        "initialize": {"_target_": "medseg.components.seed_all", "seed": "@seed"},
        "labels": {str(value): name for value, name in plan.labels.items()},
        "regions": [dict(region) for region in plan.regions],
        "roi_size": list(plan.roi_size),
        "batch_size": plan.batch_size,
        "max_epochs": settings["max_epochs"],
        "steps_per_epoch": settings["steps_per_epoch"],
        "val_interval": settings["val_interval"],
        "early_stop": settings.get("early_stop"),
        "num_workers": None,
        "devices": None,
        "num_nodes": None,
        "strategy": "auto",
        "micro_batch_size": None,
    }


def _source(plan: Plan) -> dict[str, Any]:
    return {
        "preprocessing": "@preprocessing_def",
        "labels": "@labels",
        "data": None,
        "dataset_dir": "@dataset_dir",
        "bundle_root": "@bundle_root",
        "fold": "@fold",
        "ignore_label": plan.ignore_label,
        "missing_channels": plan.missing_channels,
        **_project(plan),
    }


def _project(plan: Plan) -> dict[str, str]:
    return {"project": "@project"} if plan.project else {}


def _inferer(plan: Plan) -> dict[str, Any]:
    return {
        "_target_": "medseg.components.SlidingWindowInferer",
        "roi_size": "@roi_size",
        "sw_batch_size": int(plan.inference.get("sw_batch_size", 1)),
        "overlap": float(plan.inference.get("overlap", 0.5)),
        "mode": "gaussian",
    }


def _dataset(plan: Plan) -> dict[str, Any]:
    return {
        "_target_": "medseg.components.TrainingDataset",
        **_source(plan),
        "roi_size": "@roi_size",
        "samples_per_epoch": "$@steps_per_epoch * @batch_size",
        "augmentation": dict(plan.augmentation),
        "seed": "@seed",
    }


def _module(plan: Plan) -> dict[str, Any]:
    settings = plan.optimization
    return {
        "_target_": "medseg.components.SegmentationModule",
        "network": "@network_def",
        "labels": "@labels",
        "regions": "@regions",
        "inferer": "@train::inferer",
        "seed": "@seed",
        "micro_batch_size": "@micro_batch_size",
        **{key: settings[key] for key in MODULE_KEYS if key in settings},
        **_project(plan),
    }


def _data() -> dict[str, Any]:
    return {
        "_target_": "medseg.components.SegmentationData",
        "train_dataset": "@train::dataset",
        "validation_dataset": "@validate::dataset",
        "batch_size": "@batch_size",
        "num_workers": "@num_workers",
        "augmentation_device": "auto",
    }


def _trainer(plan: Plan) -> dict[str, Any]:
    return {
        "_target_": "medseg.components.make_trainer",
        "max_epochs": "@max_epochs",
        "bundle_root": "@bundle_root",
        "fold": "@fold",
        "device": "@device",
        "devices": "@devices",
        "num_nodes": "@num_nodes",
        "strategy": "@strategy",
        "precision": "auto",
        "val_interval": "@val_interval",
        "early_stop": "@early_stop",
        "experiment": plan.name,
        "tracking": True,
        "train_handlers": "@train::handlers",
        **{key: plan.optimization[key] for key in TRAINER_KEYS if key in plan.optimization},
    }


def _run() -> dict[str, Any]:
    return {
        "_target_": "medseg.components.run_fit",
        "trainer": "@train::trainer",
        "module": "@train::module",
        "data": "@train::data",
        "bundle_root": "@bundle_root",
        "fold": "@fold",
        "resume": "@resume",
        "budget_s": "@budget_s",
        "pretrained": "@pretrained",
    }
