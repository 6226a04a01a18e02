"""`medseg synthesize plan`: measure a data set and write the bundle of a generator, which `medseg fit` trains."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bars import progress_bar
from medseg.bundle.card import license_text
from medseg.bundle.configs.metadata import make_metadata
from medseg.bundle.configs.train import train_config
from medseg.bundle.made_here import note_made
from medseg.bundle.write import LOGGING_CONF
from medseg.datasets import read_case_image
from medseg.errors import ConfigError, DataError, nearest
from medseg.io.atomic import write_json, write_text
from medseg.io.datalist import Case
from medseg.layout import Layout
from medseg.planning.folds import subject_of
from medseg.planning.plan import Plan
from medseg.transforms.classes import class_values
from medseg.transforms.preprocessing import Preprocessing
from medseg.types import FilePath

from .plan import bundle_name, plan_bundle
from .synthesize import real_cases

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "multiples": [1, 2], "cells": 1, "patch": 2},
    "nano": {"width": 32, "multiples": [1, 2, 2], "cells": 1, "patch": 2},
    "small": {"width": 48, "multiples": [1, 2, 2], "cells": 2, "patch": 2},
    "base": {"width": 64, "multiples": [1, 2, 2, 2], "cells": 2, "patch": 1},
}
BOUND = 4.0  # images are clipped there, in standard deviations
LARGEST = 64  # voxels of a side; whole volumes above that need a latent space, which is not built
MEASURED = 40  # cases whose voxels are measured
EPOCHS, STEPS = 100, 250
EMA_HALF_LIFE = 0.1  # of the training


def plan_generator(data: FilePath, output: FilePath, *, size: str = "nano", folds: int = 5) -> dict[str, Any]:
    """Plan a generator and write its bundle; returns what was measured and chosen.

    Args:
        data: a folder of labelled volumes.
        output: a new folder.
        size: a key of `SIZES`.
        folds: of cases that validate.

    Raises:
        ConfigError: an unknown size.
        DataError: synthetic cases among the data, one case alone, or volumes larger than image space can hold.
    """
    if size not in SIZES:
        raise ConfigError(f"--size {size!r} does not exist. {nearest(size, SIZES)}")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not empty; a generator goes into a folder of its own, name a new one")
    _, cases = real_cases(data)
    if len({subject_of(case) for case in cases}) < 2:
        raise DataError(
            f"{data}: holds one labelled subject ({cases[0].name}); a generator would copy it: the nearest real neighbour of every "
            "sample would be that scan, and nothing could tell a copy (distance 0) from a new image. Give two or more"
        )
    with tempfile.TemporaryDirectory() as aside:
        plan = plan_bundle(data, Path(aside) / bundle_name(folder), folds=folds, spatial_dims=3, stages=1)
    plan.name = bundle_name(folder)
    step = SIZES[size]["patch"] * 2 ** (len(SIZES[size]["multiples"]) - 1)
    roi, spread = measured(plan, cases[:: -(-len(cases) // MEASURED)], step)
    if max(roi) > LARGEST:
        raise DataError(
            f"{data}: volumes of about {roi} voxels on the network's grid; image space holds up to {LARGEST} a side, and "
            "nothing slides along larger ones here. Crop the volumes around what is labelled, or resample them"
        )
    write_generator(Layout(folder), plan, roi, spread, size)
    return {
        "grid": list(roi),
        "sigma_data": round(spread, 4),
        "size": size,
        "cases": len(cases),
        "spacing": plan.spacing,
    }


def measured(plan: Plan, cases: list[Case], step: int) -> tuple[tuple[int, ...], float]:
    """Sides of a volume, the nearest multiples of `step` to the median, and the standard deviation of clipped images."""
    preprocessing = Preprocessing(plan.spacing, plan.normalization, plan.orientation)
    shapes, sums = [], np.zeros(3)
    with progress_bar("measuring images", len(cases), unit="case") as advance:
        for number, case in enumerate(cases, start=1):
            image = read_case_image(case, plan.normalization)
            found = preprocessing.apply(image.array, image.affine).image.clip(-BOUND, BOUND).astype(np.float64)
            shapes.append(found.shape[1:])
            sums += (found.size, found.sum(), np.square(found).sum())
            advance(number)
    middle: list[float] = np.median(np.asarray(shapes), axis=0).tolist()
    roi = tuple(int(max(1, round(side / step)) * step) for side in middle)
    mean = sums[1] / sums[0]
    return roi, float(np.sqrt(max(sums[2] / sums[0] - mean**2, 1e-12)))


def write_generator(layout: Layout, plan: Plan, roi: tuple[int, ...], spread: float, size: str) -> None:
    """The files of a generator's bundle: no plan.json and no inference.json, since it segments nothing."""
    config = train_config(plan)
    total = EPOCHS * STEPS
    config |= {
        "roi_size": list(roi), "batch_size": 4, "max_epochs": EPOCHS, "steps_per_epoch": STEPS, "val_interval": 10,
        "early_stop": None, "regions": [],
        "network_def": {
            "_target_": "medseg.components.build_diffit", "sigma_data": round(spread, 6), "bound": BOUND,
            "image_channels": len(plan.channels), "classes": len(class_values(plan.labels)), **SIZES[size],
            "label_in_attention": True, "checkpointing": False,
        },
    }  # fmt: skip
    train = config["train"]
    train["inferer"] = None
    config["validate"]["inferer"] = None
    train["module"] = {
        "_target_": "medseg.components.DiffusionModule", "network": "@network_def", "labels": "@labels",
        "roi_size": "@roi_size", "label_dropout": 0.1, "learning_rate": 2e-4, "warmup_steps": 1000, "seed": "@seed",
    }  # fmt: skip
    # small turns, sizes and shifts of image and label map alike: what varies between scans, and nothing that does not
    train["dataset"]["augmentation"] = {
        "preset": "none", "rotation": 0.5, "rotation_degrees": 5.0, "scaling": 0.5, "scaling_range": [0.95, 1.05],
        "spacing": list(plan.spacing),
    }  # fmt: skip
    train["dataset"]["sampling"] = {"foreground": 0.0}
    train["trainer"] |= {"ema_decay": round(0.5 ** (1 / (EMA_HALF_LIFE * total)), 7), "gradient_clip": 1.0}
    metadata = make_metadata(plan)
    metadata |= {
        "task": f"synthesis of {'/'.join(sorted(set(plan.channels.values())))} images for label maps",
        "description": "A DiffiT3D denoiser: label map in, synthetic image out. Not a segmentation model.",
        "intended_use": "Research: training data for segmentation. Its images are of no patient and show nothing about one.",
    }
    for path in (layout.configs, layout.models, layout.readme.parent):
        path.mkdir(parents=True, exist_ok=True)
    write_json(layout.train, config)
    write_json(layout.splits, plan.splits)
    write_text(layout.logging, LOGGING_CONF)
    write_text(layout.license, license_text(plan))
    write_text(
        layout.readme,
        f"# {plan.name}\n\nMakes synthetic images for label maps (`medseg synthesize sample`). Research only.\n",
    )
    write_json(layout.metadata, metadata)  # last: by it a bundle is known
    note_made(layout.folder)
