"""A small planned bundle with weights, and a folder of small volumes, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import write_state_dict
from medseg.bundle.write import write_bundle
from medseg.layout import Layout
from medseg.planning.plan import Plan

# words of the shortest training there is
QUICK = [
    "max_epochs=1",
    "steps_per_epoch=1",
    "batch_size=1",
    "num_workers=0",
    "train::trainer::tracking=false",
    "--quiet",
]
LABELS = {0: "background", 1: "anterior", 2: "posterior"}
# anisotropic, oblique and left-handed: what a scanner gives
TURN = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-1.1, 1.0, 1.6])
AFFINE[:3, 3] = [10, -20, 5]


def make_plan(folder: Path, names: list[str], **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "name": "tiny_mr_unet",
        "data_folder": str(folder),
        "spatial_dims": 3,
        "channels": {0: "MRI"},
        "labels": dict(LABELS),
        "orientation": "RAS",
        "spacing": [1.0, 1.0, 1.5],
        "roi_size": [32, 32, 32],
        "batch_size": 2,
        "normalization": [{"kind": "zscore"}],
        "network": {
            "preset": "mednext",  # a quarter of the time of a network of scans, which the shipped bundles have
            "size": "nano",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 3,
            "mixer": None,
            "deep_supervision": True,
        },
        "optimization": {
            "max_epochs": 1,
            "steps_per_epoch": 1,
            "val_interval": 1,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
        },
        "augmentation": {"preset": "default"},
        "inference": {"overlap": 0.5, "sw_batch_size": 1, "mirror_axes": []},
        "folds": 1,
        "splits": [{"train": names[1:], "val": names[:1]}],
        "licence": "CC0",
        "reference": "made up for tests",
    }
    return Plan(**{**values, **changes})


def make_dataset(folder: Path, count: int = 3, shape: tuple[int, int, int] = (37, 31, 25)) -> list[str]:
    """images/ and labels/ with bright boxes; returns the case names."""
    generator = np.random.default_rng(0)
    names = [f"case{number}" for number in range(count)]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        label = np.zeros(shape, dtype=np.uint8)
        label[4:10, 5:12, 4:10] = 1
        label[10:16, 5:12, 4:10] = 2
        image = generator.normal(size=shape).astype(np.float32) + 3 * label
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), folder / "images" / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / "labels" / f"{name}.nii.gz")
    return names


def make_bundle(folder: Path, data: Path | None = None, **changes: Any) -> Layout:
    """A bundle of an untrained network whose weights are the same on every call."""
    names = make_dataset(data) if data is not None else ["case0", "case1"]
    layout = write_bundle(folder, make_plan(data or Path("data"), names, **changes))
    torch.manual_seed(0)
    network = load_bundle(folder).untrained_network()
    write_state_dict(layout.weights, network.state_dict())
    return layout
