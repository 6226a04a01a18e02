"""train.json: Lightning training described in MONAI's configuration language."""

from __future__ import annotations

from typing import Any

from medseg.planning.plan import Plan

from .inference_config import network_def, preprocessing_def


def train_config(plan: Plan) -> dict[str, Any]:
    """train.json of a planned bundle.

    `train::handlers` and `train::trainer::train_handlers` exist although Lightning trains: MONAI's `--tracking mlflow`
    and MONAI Label append to the list, and the trainer factory translates what it finds there.
    """
    optimization = plan.optimization
    return {
        "bundle_root": {"_target_": "medseg.bundle.layout.find_bundle_root", "name": plan.name},
        "output_dir": "$@bundle_root + '/runs/fold_' + str(@fold)",
        "dataset_dir": plan.data_folder,
        "device": {"_target_": "medseg.config.choose_device", "name": "auto"},
        "fold": 0,
        "seed": 0,
        "val_interval": int(optimization.get("val_interval", 10)),
        "network_def": network_def(plan),
        "preprocessing_def": preprocessing_def(plan),
        "train": {
            "dataset": {
                "_target_": "medseg.training.datamodule.TrainingDataset",
                "folder": "@dataset_dir",
                "splits_file": "$@bundle_root + '/configs/splits.json'",
                "fold": "@fold",
                "preprocessing": "@preprocessing_def",
                "labels": [int(value) for value in sorted(plan.labels)],
                "roi_size": [int(extent) for extent in plan.roi_size],
                "augmentation": dict(plan.augmentation),
                "seed": "@seed",
            },
            "inferer": {"_target_": "SimpleInferer"},
            "data": {
                "_target_": "medseg.training.datamodule.SegmentationData",
                "train_dataset": "@train::dataset",
                "val_dataset": "@validate::dataset",
                "batch_size": int(plan.batch_size),
            },
            "module": {
                "_target_": "medseg.training.module.SegmentationModule",
                "network": "@network_def",
                "inferer": "@validate::inferer",
                "labels": {str(value): name for value, name in sorted(plan.labels.items())},
                **{key: value for key, value in optimization.items() if key not in ("epochs", "val_interval")},
            },
            "handlers": [],
            "trainer": {
                "_target_": "medseg.training.trainer.make_trainer",
                "max_epochs": int(optimization.get("epochs", 100)),
                "val_interval": "@val_interval",
                "output_dir": "@output_dir",
                "device": "@device",
                "train_handlers": "@train::handlers",
            },
        },
        "validate": {
            "dataset": {
                "_target_": "medseg.training.datamodule.ValidationDataset",
                "folder": "@dataset_dir",
                "splits_file": "$@bundle_root + '/configs/splits.json'",
                "fold": "@fold",
                "preprocessing": "@preprocessing_def",
            },
            "inferer": {
                "_target_": "medseg.inference.SlidingWindowInferer",
                "roi_size": [int(extent) for extent in plan.roi_size],
                "sw_batch_size": int(plan.inference.get("sw_batch_size", 1)),
                "overlap": float(plan.inference.get("overlap", 0.5)),
                "mode": "gaussian",
            },
            "handlers": [],
        },
        "run": [
            {
                "_target_": "medseg.training.fit.run_fit",
                "trainer": "@train::trainer",
                "module": "@train::module",
                "data": "@train::data",
                "bundle_root": "@bundle_root",
                "fold": "@fold",
            }
        ],
    }
