"""`Postprocessing` as a MONAI dictionary transform, for inference.json and evaluate.json."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .postprocessing import Postprocessing


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
