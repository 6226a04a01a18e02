"""Several weight files as one network, for the MONAI side of a bundle that averages them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medseg.inference.ensemble import averaged

from .load import load_bundle


class AveragedNetwork(torch.nn.Module):
    """Mean of the logits of several networks: (B, C, X, Y, Z) -> (B, K, X, Y, Z)."""

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return averaged(list(self.networks))(image)


def averaged_network(bundle_root: str, device: torch.device | str = "cpu") -> AveragedNetwork:
    """The networks of a bundle with their weights, averaged: what `medseg predict` runs, for inference.json.

    Args:
        bundle_root: the bundle's folder.
        device: where to put them.

    Raises:
        BundleError: a weight file is missing or belongs to another network.
    """
    return AveragedNetwork(load_bundle(bundle_root).networks()).eval().to(device)
