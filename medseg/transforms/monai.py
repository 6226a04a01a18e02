"""`Preprocessing` and the way back as MONAI dictionary transforms, for inference.json, MONAI Label and notebooks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform

from .classes import label_dtype
from .grid import GridMap
from .postprocessing import Postprocessing
from .preprocessing import Preprocessing
from .restoring import place_label, restore_label, restore_regions

GRID = "medseg_grid"
SOURCE_AFFINE = "medseg_source_affine"


def _as_meta(value: object) -> MetaTensor:
    return value if isinstance(value, MetaTensor) else MetaTensor(torch.as_tensor(np.asarray(value)))


class Preprocessd(MapTransform, InvertibleTransform):
    """Apply a `Preprocessing` to loaded images (C, X, Y, Z) with affine, and record the inverse in the tensor.

    Args:
        keys: images to prepare, usually "image".
        preprocessing: the bundle's recipe.
        allow_missing_keys: do not complain about an absent key.
    """

    def __init__(self, keys: KeysCollection, preprocessing: Preprocessing, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.preprocessing = preprocessing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            source = _as_meta(result[key])
            prepared = self.preprocessing.apply(source.as_tensor().cpu().numpy(), source.affine.cpu().numpy())
            image = MetaTensor(torch.from_numpy(prepared.image), affine=torch.from_numpy(prepared.affine))
            image.copy_meta_from(source, copy_attr=False)
            image.meta = dict(source.meta)
            image.affine = torch.from_numpy(prepared.affine)
            extra = {GRID: prepared.grid.to_dict(), SOURCE_AFFINE: prepared.source_affine.tolist()}
            self.push_transform(image, orig_size=list(prepared.source_shape), extra_info=extra)
            result[key] = image
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Values (C, X, Y, Z) on the network's grid back on the source grid, linearly; 0 outside a cut box."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = _as_meta(result[key])
            record = self.pop_transform(image)["extra_info"]
            grid = GridMap.from_dict(record[GRID])
            values = torch.nn.functional.interpolate(
                image.as_tensor()[None].float().cpu(), size=grid.extent, mode="trilinear", align_corners=False
            )[0].numpy()
            placed = np.stack([place_label(channel, grid) for channel in values])
            restored = MetaTensor(torch.from_numpy(placed), affine=torch.tensor(record[SOURCE_AFFINE]))
            restored.meta = {**image.meta}
            restored.affine = torch.tensor(record[SOURCE_AFFINE], dtype=torch.float64)
            restored.applied_operations = image.applied_operations
            result[key] = restored
        return result


def recorded_grid(image: MetaTensor) -> tuple[GridMap, np.ndarray]:
    """The grid and source affine that `Preprocessd` left in an image.

    Raises:
        ValueError: no record: the image did not pass through `Preprocessd`.
    """
    for operation in reversed(image.applied_operations):
        extra = operation.get("extra_info", {})
        if GRID in extra:
            return GridMap.from_dict(extra[GRID]), np.asarray(extra[SOURCE_AFFINE], dtype=np.float64)
    raise ValueError("the image carries no record of Preprocessd; apply Preprocessd to it first")


class RestoreLabeld(MapTransform):
    """Logits (K, X, Y, Z) on the network's grid -> labels (1, X, Y, Z) on the source grid of the image they came from.

    Args:
        keys: predictions, usually "pred".
        image_key: the image that passed through `Preprocessd`.
        labels: label value of each class index; None means that they are 0, 1, 2 ...
        regions: the channels are overlapping regions; `labels` then holds what each of them writes, see `regions.py`.
        accumulation: of the inferer; with `nnunet` interpolated logits are rounded to float16 as well.
        allow_missing_keys: do not complain about an absent key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        labels: list[int] | None = None,
        allow_missing_keys: bool = False,
        regions: bool = False,
        accumulation: str = "float32",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rounded = accumulation == "nnunet"
        if regions and labels is None:
            raise ValueError("regions need labels: what each of them writes")
        self.image_key = image_key
        self.writes = list(labels or []) if regions else None
        self.labels = None if regions or labels is None or list(labels) == list(range(len(labels))) else list(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = result[self.image_key]
        grid, affine = recorded_grid(image)
        for key in self.key_iterator(result):
            logits = _as_meta(result[key]).as_tensor()
            if self.writes is None:
                label = restore_label(logits, grid, rounded=self.rounded)
            else:
                label = restore_regions(logits, grid, self.writes)
            if self.labels is not None:
                table = np.asarray(self.labels)
                label = table.astype(label_dtype(int(table.max())))[label]
            wide = np.int32 if label.max(initial=0) < 1 << 31 else np.int64
            restored = MetaTensor(torch.from_numpy(label.astype(wide, copy=False))[None], meta=dict(image.meta))
            restored.affine = torch.from_numpy(affine)
            result[key] = restored
        return result


class PostprocessLabeld(MapTransform):
    """Apply the bundle's post-processing to label maps (1, X, Y, Z) on the source grid.

    Args:
        keys: label maps with affine, usually "pred" after `RestoreLabeld`.
        steps: as in `medseg.transforms.postprocessing`.
        allow_missing_keys: do not complain about an absent key.
    """

    def __init__(
        self, keys: KeysCollection, steps: Sequence[Mapping[str, Any]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.postprocessing = Postprocessing(steps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            source = result[key]
            affine = np.asarray(source.affine.cpu()) if isinstance(source, MetaTensor) else np.eye(4)
            label = self.postprocessing(np.asarray(torch.as_tensor(source).cpu())[0], affine)
            changed = torch.from_numpy(np.ascontiguousarray(label))[None].to(source.dtype)
            result[key] = MetaTensor(changed, meta=dict(source.meta)) if isinstance(source, MetaTensor) else changed
        return result
