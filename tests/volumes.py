"""Small labelled volumes with known answers, for tests: a bright ball in noise, on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from medseg.io.datalist import Case


def ball(shape: Sequence[int], radius: float, center: Sequence[float] | None = None) -> np.ndarray:
    """Boolean (X, Y, Z): voxels within `radius` of the centre."""
    middle = [(n - 1) / 2 for n in shape] if center is None else center
    axes = np.meshgrid(*[np.arange(n) - c for n, c in zip(shape, middle, strict=True)], indexing="ij")
    return np.asarray(sum(axis**2 for axis in axes) <= radius**2)


def make_case(
    folder: Path,
    name: str,
    *,
    shape: tuple[int, int, int] = (16, 16, 16),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    radius: float = 4.0,
    value: int = 1,
    seed: int = 0,
    affine: np.ndarray | None = None,
) -> Case:
    """Write `images/NAME.nii.gz` and `labels/NAME.nii.gz` below a folder; the image shows the ball in noise."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    inside = ball(shape, radius)
    matrix = np.diag([*spacing, 1.0]) if affine is None else affine
    noise = np.random.default_rng(seed).normal(0, 0.3, shape)
    image, label = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image((inside + noise).astype(np.float32), matrix), image)
    nibabel.save(nibabel.Nifti1Image((inside * value).astype(np.uint8), matrix), label)
    return Case(name=name, images=(image,), label=label)
