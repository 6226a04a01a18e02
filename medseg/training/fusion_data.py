"""Volume Fusion as a training's data: fused crops of two cases, and which level is where; no label is read.

Encoder and decoder are trained together. See `medseg.transforms.crops.fusion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.io.store import StoredArrays
from medseg.transforms.crops.augmentation import apply, draw
from medseg.transforms.crops.fusion import LEVELS, draw_levels, fuse
from medseg.transforms.crops.recipes import RECIPES
from medseg.transforms.crops.sampling import SampleKey, draw_case, draw_center
from medseg.transforms.preprocessing import Preprocessing

from .case_datasets import TrainingDataset

TRIES = 5  # places of a crop until one is not all of one value
FIXED = 0x5EED  # seed of the crops that are validated on


class FusionDataset(TrainingDataset):
    """Fused crops and their levels; item `epoch * samples_per_epoch + index` depends on (seed, epoch, index) alone."""

    def open(self) -> None:
        super().open()
        if len({tuple(case.images) for case in self.cases}) < 2:
            raise DataError(
                f"{self.cases[0].name!r} is the only volume: fused with itself there is nothing to learn; give two or more"
            )
        flat = [case.name for case, one in zip(self.cases, self._arrays, strict=True) if float(np.ptp(one.image)) == 0]
        if flat:
            raise DataError(
                f"case {flat[0]!r} has one value everywhere ({len(flat)} such cases): remove it from the folder"
            )

    def __getitem__(self, item: int) -> dict[str, Any]:
        epoch, index = divmod(int(item), self.samples_per_epoch)
        key = SampleKey(self.seed, epoch, index)
        first = draw_case(key, len(self.cases), self.samples_per_epoch)
        with self.watch.reading(first):
            return self.fused(key, first)

    def fused(self, key: SampleKey, first: int) -> dict[str, Any]:
        """The crop of a key whose first case is known."""
        generator = key.generator(6)
        second = (first + int(generator.integers(1, len(self.cases)))) % len(self.cases)
        crops = [self._crop(key, number, part) for part, number in enumerate((first, second))]
        levels = draw_levels(generator, self.roi_size)
        return {
            "image": torch.from_numpy(fuse(crops[0], crops[1], levels)),
            "label": torch.from_numpy(levels)[None],
            "present": torch.ones(len(LEVELS), dtype=torch.bool),
            "name": self.cases[first].name,
        }

    def _crop(self, key: SampleKey, number: int, part: int) -> NDArray[np.float32]:
        """A crop with something in it, changed as training crops are."""
        arrays: StoredArrays = self._arrays[number]
        recipe = self.augmentation.recipe
        crop = np.zeros(0, dtype=np.float32)
        for trial in range(TRIES):
            own = SampleKey(key.seed, key.epoch, (2 * key.index + part) * TRIES + trial)
            crop = self._cut(own, arrays, recipe)
            if float(np.std(crop)) > 1e-3:
                break
        return crop

    def _cut(self, key: SampleKey, arrays: StoredArrays, recipe: Any) -> NDArray[np.float32]:
        nothing = np.broadcast_to(np.uint8(0), arrays.image.shape[1:])
        center = draw_center(key, arrays.image.shape[1:], self.roi_size, np.zeros((0, 4), np.int32), share=0.0)
        parameters = draw(key.generator(2), self.roi_size, arrays.image.shape[0], recipe=recipe)
        image, _ = apply(arrays.image, nothing, center, self.roi_size, parameters)
        return np.asarray(image, dtype=np.float32)


class FusionValidation(FusionDataset):
    """One fixed crop for each case that is left out of the pretraining's steps: a loss to look at, no sign of usefulness."""

    part = "val"

    def __init__(
        self, preprocessing: Preprocessing, labels: Mapping[Any, str], roi_size: Sequence[int], **source: Any
    ) -> None:
        fixed: dict[str, Any] = {"samples_per_epoch": 1, "augmentation": {"preset": "none"}, "seed": FIXED}
        super().__init__(preprocessing, labels, roi_size, **fixed, **source)
        assert self.augmentation.recipe == RECIPES["none"]

    def __len__(self) -> int:
        return len(self.cases)

    def shape(self, index: int) -> tuple[int, ...]:
        """Voxels of a crop."""
        return tuple(self.roi_size)

    def __getitem__(self, item: int) -> dict[str, Any]:
        if item >= len(self.cases):
            nothing = torch.zeros(0)
            return {"image": nothing, "label": nothing, "present": nothing, "name": "", "repeat": True}
        return {**self.fused(SampleKey(self.seed, 0, int(item)), int(item)), "repeat": False}
