"""Augmentation where the network is: loader processes cut the source voxels that a crop needs, the device does the rest.

The random numbers, the passes and their order are those of `augmentation.apply`; only the place differs. Not measured on a
GPU; the tests compare it with the other way on CPU tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augmentation import AugmentationParameters, apply

# Voxels kept beyond the crop's own reach: one for interpolation, one for rounding.
MARGIN = 2


class SourceBox:
    """The part of a case that one crop reads, and how the crop is made of it.

    Args:
        image: (C, *box) float32.
        label: (*box) integers.
        center: position of the crop's middle in the box, in voxels.
        roi_size: voxels of the crop.
        parameters: what `augmentation.draw` returned.
    """

    def __init__(
        self,
        image: Tensor,
        label: Tensor,
        center: Sequence[float],
        roi_size: Sequence[int],
        parameters: AugmentationParameters,
    ) -> None:
        self.image, self.label = image, label
        self.center, self.roi_size, self.parameters = tuple(center), tuple(roi_size), parameters

    def to(self, device: torch.device | str, **options: object) -> SourceBox:
        """The same with its voxels on a device; called by Lightning when it moves a batch."""
        image, label = self.image.to(device, non_blocking=True), self.label.to(device, non_blocking=True)
        return SourceBox(image, label, self.center, self.roi_size, self.parameters)

    def pin_memory(self) -> SourceBox:
        """The same in page-locked memory; called by torch's loader."""
        image, label = self.image.pin_memory(), self.label.pin_memory()
        return SourceBox(image, label, self.center, self.roi_size, self.parameters)

    def crop(self) -> tuple[Tensor, Tensor]:
        """Image crop (C, *roi_size) and label crop (*roi_size) int64, made on the device of the voxels."""
        image, label = apply(self.image, self.label, self.center, self.roi_size, self.parameters)
        return image, label.long()


def cut_box(
    image: Any, label: Any, center: Sequence[float], roi_size: Sequence[int], parameters: AugmentationParameters
) -> SourceBox:
    """Copy the voxels that a crop can touch out of a case, which may be a memory map.

    Args:
        image: (C, *space) float32.
        label: (*space) integers.
        center, roi_size, parameters: as in `augmentation.apply`.
    """
    axes = len(roi_size)
    reach = np.abs(parameters.matrix[:axes, :axes]) @ ((np.asarray(roi_size) - 1) / 2)
    if parameters.bumps is not None:
        # a B-spline stays within its control points
        reach = reach + np.abs(parameters.bumps[:axes]).reshape(axes, -1).max(axis=1)
    box, first = [], []
    for place, radius, extent in zip(center, reach, label.shape, strict=True):
        start = min(max(math.floor(place - radius) - MARGIN, 0), extent - 1)
        end = max(min(math.ceil(place + radius) + MARGIN + 1, extent), start + 1)
        box.append(slice(start, end))
        first.append(start)
    voxels = torch.from_numpy(np.array(image[(slice(None), *box)], dtype=np.float32, order="C"))
    labels = torch.from_numpy(np.array(label[tuple(box)], order="C"))
    inside = [place - start for place, start in zip(center, first, strict=True)]
    return SourceBox(voxels, labels, inside, roi_size, parameters)


def finish_crops(boxes: Sequence[SourceBox]) -> tuple[Tensor, Tensor]:
    """Batch (B, C, *roi_size) float32 and (B, 1, *roi_size) int64 of boxes, on their device."""
    crops = [box.crop() for box in boxes]
    return torch.stack([image for image, _ in crops]), torch.stack([label for _, label in crops])[:, None]
