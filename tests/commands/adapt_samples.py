"""A source bundle whose weights are as made, and data sets of noise with boxes, for tests of `medseg adapt`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medseg.bundle.load import load_bundle
from medseg.commands.plan import plan_bundle
from medseg.layout import Layout


def data_set(
    folder: Path,
    labels: Mapping[str, str],
    *,
    channels: Sequence[str] = ("MRI",),
    cases: int = 4,
    spacing: float = 1.0,
    seed: int = 0,
) -> Path:
    """A folder in nnU-Net's layout: every class is a box of its own in noise.

    Args:
        folder: to be made.
        labels: value -> name, background left out.
        channels: names.
        cases: how many.
        spacing: of the voxels, mm.
        seed: of the noise; another one is other patients.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(seed)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    for number in range(cases):
        label = np.zeros((20, 18, 16), dtype=np.uint8)
        for value in labels:
            at = 2 + 4 * int(value)
            label[at - 2 : at + 2, 4:12, 4:10] = int(value)
        for index in range(len(channels)):
            image = random.normal(size=label.shape).astype(np.float32) + (index + 1) * label
            nibabel.save(nibabel.Nifti1Image(image, affine), folder / "imagesTr" / f"case_{number}_{index:04d}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr" / f"case_{number}.nii.gz")
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {"background": 0, **{name: int(value) for value, name in labels.items()}},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def source_bundle(folder: Path, data: Path, *, preset: str = "resenc_unet", **options: Any) -> Path:
    """A planned bundle with weights as made: what matters is where they go.

    Args:
        folder: to be made.
        data: its data set.
        preset: of the network.
        options: of `plan_bundle`.
    """
    plan_bundle(data, folder, preset=preset, folds=2, **options)
    torch.manual_seed(1)
    network = load_bundle(folder).untrained_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    Layout(folder).models.mkdir(exist_ok=True)
    torch.save(network.state_dict(), Layout(folder).weights)
    return folder
