"""Start from another model's weights: all of them, or those beside the parts that were named; list what stays as made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.errors import BundleError, ConfigError
from medseg.networks.imported.fitting import plain_state
from medseg.networks.imported.recognise import load_weights

log = logging.getLogger(__name__)


def load_matching(
    network: nn.Module, path: Path, *, partial: Sequence[str] = (), quiet: bool = False
) -> dict[str, Any]:
    """Copy another model's weights: all of them, but for the parts that may stay as made.

    Args:
        network: to be filled; nothing is copied unless everything else fits.
        path: a state dict of a bundle, or published weights under their own names (see networks/imported).
        partial: beginnings of names that may stay as made where they do not fit (`head`, `encoder.levels.0`); "" is all.
        quiet: say nothing where they fit.

    Returns:
        Names for the run's record: `loaded`, `not_loaded` with the reason of each, and `unused` ones of the file.

    Raises:
        BundleError: the file is no state dict, or something in it does not fit: the first entry, and the share that does.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(f"{path}: cannot be read as weights: {type(error).__name__}: {error}") from error
    try:
        kept = load_weights(network, state, source=str(path), partial=partial)
    except ConfigError as error:
        raise BundleError(str(error)) from error
    own, plain = network.state_dict(), plain_state(state, str(path))
    loaded = sorted(set(own) - set(kept))
    missed = {name: _why(own[name], plain.get(name)) for name in sorted(kept)}
    if not quiet:
        log.info("loaded %d of %d tensors from %s", len(loaded), len(own), path)
    if missed and not quiet:
        log.warning("not loaded, as initialised: %s", "; ".join(f"{name} ({why})" for name, why in missed.items()))
    unused = sorted(set(plain) - set(own)) if set(plain) & set(own) else []
    return {"loaded": loaded, "not_loaded": missed, "unused": unused}


def _why(own: torch.Tensor, found: torch.Tensor | None) -> str:
    return "not in the file" if found is None else f"{list(found.shape)} in the file, {list(own.shape)} here"
