"""Small labelled volumes in each layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medseg.io.header import Header
from medseg.io.volume import write_image, write_label

SHAPE = (6, 7, 8)


def write_case(image: Path, label: Path | None, *, seed: int = 0, channels: int = 1, spacing: float = 1.0) -> None:
    """One image and, when a path is given, a label map with the values 0, 1, 2 on its grid."""
    random = np.random.default_rng(seed)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    shape = SHAPE if channels == 1 else (channels, *SHAPE)
    write_image(image, random.normal(size=shape).astype(np.float32), like=Header.of_array(SHAPE, affine))
    if label is not None:
        write_label(label, random.integers(0, 3, SHAPE), like=Header.of_array(SHAPE, affine))


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_folder(root: Path, names: tuple[str, ...] = ("a", "b", "c"), *, describe: bool = True) -> Path:
    for seed, name in enumerate(names):
        write_case(root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz", seed=seed)
    if describe:
        write_json(
            root / "dataset.json",
            {"labels": {"background": 0, "one": 1, "two": 2}, "channels": {"0": "MRI"}, "licence": "CC0"},
        )
    return root


def make_decathlon(root: Path, *, channels: int = 1) -> Path:
    entries = []
    for seed, name in enumerate(("b_2", "b_1")):
        write_case(root / f"imagesTr/{name}.nii.gz", root / f"labelsTr/{name}.nii.gz", seed=seed, channels=channels)
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    write_case(root / "imagesTs/t.nii.gz", None)
    description = {
        "name": "Toy",
        "labels": {"0": "background", "1": "one", "2": "two"},
        "modality": {str(index): "MRI" for index in range(channels)},
        "training": entries,
        "test": ["./imagesTs/t.nii.gz"],
        "licence": "CC0",
        "reference": "nobody",
    }
    write_json(root / "dataset.json", description)
    return root


def make_nnunet(root: Path) -> Path:
    for seed, name in enumerate(("sub-1_scan", "sub-2_scan")):
        write_case(root / f"imagesTr/{name}_0000.nii.gz", root / f"labelsTr/{name}.nii.gz", seed=seed)
        write_case(root / f"imagesTr/{name}_0001.nii.gz", None, seed=seed + 10)
    write_case(root / "imagesTs/t_0000.nii.gz", None)
    write_case(root / "imagesTs/t_0001.nii.gz", None)
    description = {
        "labels": {"background": 0, "one": 1, "two": 2},
        "channel_names": {"0": "T1", "1": "T2"},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    write_json(root / "dataset.json", description)
    return root
