"""Start from another model's weights: load what fits, list what does not."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from medseg.errors import BundleError
from medseg.io.atomic import write_json

log = logging.getLogger(__name__)


def load_matching(network: nn.Module, path: Path, *, record: Path | None = None) -> tuple[list[str], list[str]]:
    """Copy every tensor of equal name and shape; heads of another label set or stems of other channels stay as made.

    Args:
        network: to be filled.
        path: a state dict.
        record: JSON file to list the names in: `loaded`, `not_loaded` with the reason of each, and `unused` ones of the file.

    Returns:
        Names loaded, and names of the network that were not.

    Raises:
        BundleError: the file is no state dict, or nothing in it fits.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(f"{path}: cannot be read as weights: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(f"{path}: is no state dict of tensors; expected a bundle's models/model.pt")
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise BundleError(f"{path}: none of its {len(state)} tensors fits this network; is it another preset or size?")
    network.load_state_dict(fitting, strict=False)
    missed = {name: _why(own[name], state.get(name)) for name in sorted(set(own) - set(fitting))}
    log.info("loaded %d of %d tensors from %s", len(fitting), len(own), path)
    if missed:
        log.warning("not loaded, as initialised: %s", "; ".join(f"{name} ({why})" for name, why in missed.items()))
    if record is not None:
        unused = sorted(set(state) - set(own))
        write_json(record, {"loaded": sorted(fitting), "not_loaded": missed, "unused": unused})
    return sorted(fitting), list(missed)


def _why(own: torch.Tensor, found: torch.Tensor | None) -> str:
    return "not in the file" if found is None else f"{list(found.shape)} in the file, {list(own.shape)} here"
