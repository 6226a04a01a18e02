"""What a network gives for a window: one tensor, several, or named ones, as plain tensors or MONAI's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

Outputs = torch.Tensor | Sequence[torch.Tensor] | dict[Any, torch.Tensor]


def flatten(outputs: Outputs) -> tuple[Any, list[torch.Tensor]]:
    """("tensor", [t]) for a tensor, (None, tensors) for a sequence, (keys, tensors) for a dictionary."""
    if isinstance(outputs, torch.Tensor):
        return "tensor", [outputs]
    if isinstance(outputs, dict):
        keys = sorted(outputs)
        return keys, [outputs[key] for key in keys]
    return None, list(outputs)


def with_metadata_of(inputs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The logits as MONAI's MetaTensor with what the inputs know, where they are one; themselves else."""
    if type(inputs) is torch.Tensor or "monai.data" not in sys.modules:
        return logits
    from monai.data import MetaTensor
    from monai.utils import convert_to_dst_type

    if not isinstance(inputs, MetaTensor):
        return logits
    template = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(logits, template, device=logits.device, dtype=logits.dtype)[0]
