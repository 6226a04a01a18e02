"""Overlapping regions and one label map: which voxels belong to each region, and back.

A region is written {"name": "whole tumour", "labels": [1, 2, 3], "label": 1} in plan.json and train.json: the network's output
i says where region i is, and its voxels receive `label`; a later region writes over an earlier one (nnU-Net's
`regions_class_order`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .classes import label_dtype

__all__ = ["labels_of_regions", "region_masks"]


def region_masks(label: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """(*space) integers -> (R, *space) boolean: the voxels whose label belongs to each region; -1 belongs to none."""
    masks = [torch.isin(label, torch.as_tensor(list(values), device=label.device)) for values in regions]
    return torch.stack(masks)


def labels_of_regions(logits: Tensor, writes: Sequence[int], *, threshold: float = 0.0) -> Tensor:
    """One label map from the logits of overlapping regions.

    Args:
        logits: (R, *space).
        writes: the label of each region, in order; later ones win.
        threshold: a voxel belongs to a region when its logit is above; 0 is a probability of one half.

    Returns:
        (*space) the smallest of uint8, uint16 and uint32 that holds the labels; 0 where no region is.

    Raises:
        ValueError: another number of labels than of regions.

    Example:
        >>> labels_of_regions(torch.tensor([[2.0, 1.0, -1.0], [-3.0, 0.5, -1.0]]), [1, 2]).tolist()
        [1, 2, 0]
    """
    if len(writes) != logits.shape[0]:
        raise ValueError(f"{logits.shape[0]} regions and {len(writes)} labels; expected one label for each region")
    kind: Any = getattr(torch, label_dtype(max(writes)).__name__)
    wide = torch.int32 if max(writes) < 1 << 31 else torch.int64
    result = torch.zeros(logits.shape[1:], dtype=wide, device=logits.device)
    for region, value in zip(logits, writes, strict=True):
        result.masked_fill_(region > threshold, int(value))
    return result.to(kind)
