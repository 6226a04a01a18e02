"""train.json: Lightning trains, but every id that MONAI's tools look for is where they expect it."""

from __future__ import annotations

from typing import Any

from medseg.planning.plan import Plan

from .inference_config import network_def, preprocessing_def

# Settings of `plan.optimization` that are arguments of the module; the others belong to the trainer or the data.
MODULE_KEYS = ("loss", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup_steps")
TRAINER_KEYS = ("gradient_clip", "ema_decay")


def train_config(plan: Plan) -> dict[str, Any]:
    """The whole of train.json; declarative but for two string expressions that MONAI's own tools need."""
    settings = plan.optimization
    source = {
        "preprocessing": "@preprocessing_def",
        "labels": "@labels",
        "data": None,
        "dataset_dir": "@dataset_dir",
        "bundle_root": "@bundle_root",
        "fold": "@fold",
        "ignore_label": plan.ignore_label,
    }
    return {
        "bundle_root": {"_target_": "medseg.bundle.layout.find_bundle_root", "name": plan.name},
        "output_dir": "$@bundle_root + '/runs'",
        "dataset_dir": plan.data_folder,
        "device": {"_target_": "medseg.config.choose_device", "name": "auto"},
        "fold": 0,
        "seed": 0,
        "resume": False,
        "budget_s": None,
        "pretrained": None,
        "initialize": {"_target_": "medseg.tracking.determinism.seed_all", "seed": "@seed"},
        "labels": {str(value): name for value, name in plan.labels.items()},
        "roi_size": list(plan.roi_size),
        "batch_size": plan.batch_size,
        "max_epochs": settings["max_epochs"],
        "steps_per_epoch": settings["steps_per_epoch"],
        "val_interval": settings["val_interval"],
        "num_workers": None,
        "preprocessing_def": preprocessing_def(plan),
        "network_def": network_def(plan),
        "network": "@network_def",  # MONAI Label loads pretrained weights into this id
        "train": {
            "inferer": {
                "_target_": "medseg.inference.SlidingWindowInferer",
                "roi_size": "@roi_size",
                "sw_batch_size": int(plan.inference.get("sw_batch_size", 1)),
                "overlap": float(plan.inference.get("overlap", 0.5)),
                "mode": "gaussian",
            },
            "dataset": {
                "_target_": "medseg.training.datamodule.TrainingDataset",
                **source,
                "roi_size": "@roi_size",
                "samples_per_epoch": "$@steps_per_epoch * @batch_size",
                "augmentation": dict(plan.augmentation),
                "seed": "@seed",
            },
            "module": {
                "_target_": "medseg.training.module.SegmentationModule",
                "network": "@network_def",
                "labels": "@labels",
                "inferer": "@train::inferer",
                "seed": "@seed",
                **{key: settings[key] for key in MODULE_KEYS if key in settings},
            },
            "data": {
                "_target_": "medseg.training.datamodule.SegmentationData",
                "train_dataset": "@train::dataset",
                "validation_dataset": "@validate::dataset",
                "batch_size": "@batch_size",
                "num_workers": "@num_workers",
            },
            "handlers": [],
            "trainer": {
                "_target_": "medseg.training.trainer.make_trainer",
                "max_epochs": "@max_epochs",
                "bundle_root": "@bundle_root",
                "fold": "@fold",
                "device": "@device",
                "devices": None,
                "strategy": "auto",
                "precision": "auto",
                "val_interval": "@val_interval",
                "experiment": plan.name,
                "tracking": True,
                "train_handlers": "@train::handlers",
                **{key: settings[key] for key in TRAINER_KEYS if key in settings},
            },
        },
        "validate": {
            "dataset": {"_target_": "medseg.training.datamodule.ValidationDataset", **source},
            "inferer": "@train::inferer",
            "handlers": [],
        },
        "run": {
            "_target_": "medseg.training.fit.run_fit",
            "trainer": "@train::trainer",
            "module": "@train::module",
            "data": "@train::data",
            "bundle_root": "@bundle_root",
            "fold": "@fold",
            "resume": "@resume",
            "budget_s": "@budget_s",
            "pretrained": "@pretrained",
        },
    }
