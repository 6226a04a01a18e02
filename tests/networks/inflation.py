"""A 3D module that holds the weights of a 2D one: what it must compute on a volume of depth 1 is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def inflate(flat: nn.Module, deep: nn.Module) -> None:
    """Copy the weights of a 2D module into its 3D form: centre slices of kernels and tables, zeros elsewhere.

    Raises:
        AssertionError: a parameter whose 2D and 3D shapes have no such relation.
    """
    theirs = dict(flat.named_parameters())
    with torch.no_grad():
        for name, parameter in deep.named_parameters():
            if name in theirs:
                parameter.copy_(lift(name, theirs[name], parameter.shape))
            else:
                assert ".tables.2" in name, f"{name}: in 3D only"  # positions along the third axis
                parameter.zero_()


def lift(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """`weight` of the 2D module in the 3D module's `shape`."""
    if weight.shape == shape:
        return weight
    lifted = torch.zeros(shape)
    if name.endswith("table"):  # ((2 w - 1)^2, H) in the middle of ((2 w - 1)^3, H), the last axis fastest
        side = round(weight.shape[0] ** 0.5)
        depth = shape[0] // weight.shape[0]
        lifted.view(side, side, depth, -1)[:, :, depth // 2] = weight.view(side, side, -1)
    elif len(shape) == 2 and weight.shape[1] == 2:  # a map of coordinates
        lifted[:, :2] = weight
    elif name.endswith("step_write"):  # a row per kind of step: none leaves a flat grid
        lifted[: weight.shape[0]] = weight
    elif len(shape) == weight.dim():  # a kernel kept as taps (C, kx, ky, 1)
        lifted[..., shape[-1] // 2] = weight[..., 0]
    else:
        assert len(shape) == weight.dim() + 1, f"{name}: {tuple(weight.shape)} and {tuple(shape)}"
        lifted[..., shape[-1] // 2] = weight
    return lifted
