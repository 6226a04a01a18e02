"""New pairs out of real ones: the cheap rivals of a trained generator.

`warp` bends image and label map together; `paint` fills bent label maps with random intensities; `gin` bends them and sends the
image through random shallow convolutions. Nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.transforms.crops.appearance import gin, paint
from medseg.transforms.crops.augmentation import apply, draw
from medseg.transforms.crops.recipes import build_recipe
from medseg.types import ImageCXYZ, LabelXYZ

BEND_MM = 2.0  # standard deviation of a control point
# small turns and sizes, and a smooth deformation, always; never a mirror image: many anatomies have a left and a right
RECIPE: dict[str, Any] = {
    "preset": "none", "rotation": 1.0, "rotation_degrees": 8.0, "scaling": 1.0, "scaling_range": (0.92, 1.08),
    "elastic": 1.0, "elastic_mm": BEND_MM, "elastic_points": 4,
}  # fmt: skip

Change = Callable[[torch.Tensor, torch.Tensor, int], None]


def _as_it_is(channel: torch.Tensor, label: torch.Tensor, seed: int) -> None:
    pass


def _gin(channel: torch.Tensor, label: torch.Tensor, seed: int) -> None:
    """In standard deviations, since the convolutions' own shifts are of order 1 whatever the scanner's units are."""
    mean, spread = channel.mean(), channel.std()
    if spread > 0:
        channel.sub_(mean).div_(spread)
        gin(channel, seed)
        channel.mul_(spread).add_(mean)


METHODS: dict[str, Change] = {"warp": _as_it_is, "paint": paint, "gin": _gin}


def new_pair(
    method: str, image: ImageCXYZ, label: LabelXYZ, spacing: tuple[float, ...], random: np.random.Generator
) -> tuple[NDArray[np.float32], LabelXYZ]:
    """One pair on the real one's grid.

    Args:
        method: a key of `METHODS`.
        image: (C, X, Y, Z) float32.
        label: (X, Y, Z) integers on the same grid.
        spacing: mm per voxel.
        random: of everything.

    Returns:
        The image, float32, and the label map of the label's own type.
    """
    recipe = build_recipe(**RECIPE, spacing=tuple(float(side) for side in spacing))
    bent, bent_label = bent_pair(image, label, draw(random, label.shape, len(image), recipe=recipe))
    new = torch.from_numpy(np.ascontiguousarray(bent))
    classes = torch.from_numpy(bent_label.astype(np.int64))
    for channel in new:
        METHODS[method](channel, classes, int(random.integers(2**63)))
    return new.numpy(), bent_label


def bent_pair(image: ImageCXYZ, label: LabelXYZ, parameters: Any) -> tuple[NDArray[np.float32], LabelXYZ]:
    """Image and label map under one deformation; what comes from outside is each channel's smallest value."""
    low = image.reshape(len(image), -1).min(axis=1).reshape(-1, 1, 1, 1)
    center = [(side - 1) / 2 for side in label.shape]
    source = np.ascontiguousarray(image - low, dtype=np.float32)
    bent, bent_label = apply(source, np.ascontiguousarray(label), center, label.shape, parameters)
    return np.asarray(bent) + low.astype(np.float32), np.asarray(bent_label)


def bent_label(label: LabelXYZ, spacing: tuple[float, ...], random: np.random.Generator) -> LabelXYZ:
    """A label map of one's own anatomy, a little bent: what a trained generator is asked for."""
    recipe = build_recipe(**RECIPE, spacing=tuple(float(side) for side in spacing))
    nothing = np.zeros((1, *label.shape), np.float32)
    return bent_pair(nothing, label, draw(random, label.shape, 1, recipe=recipe))[1]
