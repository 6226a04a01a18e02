"""Start from another model's weights: load what fits, list what does not."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from medseg.errors import BundleError

log = logging.getLogger(__name__)


def load_matching(network: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Copy every tensor of equal name and shape; heads of another label set or stems of other channels stay as made.

    Returns:
        Names loaded, and names of the network that were not.

    Raises:
        BundleError: the file is no state dict, or nothing in it fits.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(f"{path}: cannot be read as weights: {type(error).__name__}: {error}") from error
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise BundleError(f"{path}: none of its {len(state)} tensors fits this network; is it another preset or size?")
    network.load_state_dict(fitting, strict=False)
    missed = sorted(set(own) - set(fitting))
    log.info("loaded %d of %d tensors from %s", len(fitting), len(own), path)
    if missed:
        log.info("not loaded, as initialised: %s", ", ".join(missed))
    return sorted(fitting), missed
