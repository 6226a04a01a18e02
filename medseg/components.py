"""The frozen names that bundle files write as `_target_`: `medseg.components.NAME`. What stands behind a name may move.

Nothing is imported until a name is asked for. Folders below this one reach it by its text only.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module of its definition
HOMES = {
    "AveragedNetwork": "medseg.inference.windows.ensemble",
    "DiffusionModule": "medseg.training.diffusion_module",
    "FusionDataset": "medseg.training.fusion_data",
    "FusionValidation": "medseg.training.fusion_data",
    "NnunetPreprocessing": "medseg.transforms.nnunet_preprocessing",
    "PostprocessLabeld": "medseg.transforms.monai",
    "Preprocessd": "medseg.transforms.monai",
    "Preprocessing": "medseg.transforms.preprocessing",
    "RestoreLabeld": "medseg.transforms.monai",
    "SegmentationData": "medseg.training.datamodule",
    "SegmentationModule": "medseg.training.module",
    "SlidingWindowInferer": "medseg.inference.windows.sliding_window",
    "TrainingDataset": "medseg.training.case_datasets",
    "ValidationDataset": "medseg.training.case_datasets",
    "VolumeReader": "medseg.io.monai_reader",
    "averaged_network": "medseg.bundle.predictor",
    "build_diffit": "medseg.networks.diffusion.edm",
    "build_network": "medseg.networks.build",
    "build_nnunet": "medseg.networks.imported.nnunet",
    "build_segresnet_ds": "medseg.networks.imported.monai_segresnet",
    "build_split_network": "medseg.networks.site_encoders",
    "case_names": "medseg.bundle.configs.inputs",
    "choose_device": "medseg.devices",
    "find_bundle_root": "medseg.bundle.catalogue",
    "list_images": "medseg.bundle.configs.inputs",
    "list_labelled": "medseg.bundle.configs.inputs",
    "make_trainer": "medseg.training.trainer",
    "run_fit": "medseg.training.fit",
    "seed_all": "medseg.tracking.determinism",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(HOMES)
