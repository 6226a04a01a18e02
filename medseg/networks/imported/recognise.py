"""Whose weights a state dict holds, by its names, and how they come into a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from medseg.errors import ConfigError

from ..network import SegmentationNetwork
from .fitting import fit, plain_state
from .monai_mednext import SOURCE as MEDNEXT
from .monai_mednext import TABLE, same_function
from .monai_swin_unetr import load_monai_swin_unetr
from .nvidia import fill_published
from .tables import Converted, convert


def load_weights(
    network: nn.Module, content: object, *, source: str = "weights", partial: Sequence[str] = ()
) -> list[str]:
    """Weights of a bundle's network, or published ones under their own names, into a network.

    Args:
        network: to be filled; nothing is copied unless everything fits.
        content: a state dict, wrapped or not.
        source: whose it is, for messages.
        partial: beginnings of names (`head`, `decoder`) that may stay as made where they do not fit; "" is all of them.

    Returns:
        Names that stayed as made.

    Raises:
        ConfigError: the first entry that does not fit and the share that does, or a network that computes something else
            with these weights.
    """
    state = plain_state(content, source)
    own = network.state_dict()
    if not any(name in own for name in state) and isinstance(network, SegmentationNetwork):
        kept = _foreign(network, state, partial)
        if kept is not None:
            return kept
    found = Converted(dict(state), {name: name for name in state}, [])
    if partial and not any(name in own and own[name].shape == value.shape for name, value in state.items()):
        raise ConfigError(
            f"{source}: none of its {len(state)} entries fits this network; is it another preset or size?"
        )
    return fit(network, found, source=source, partial=partial)


def _foreign(network: SegmentationNetwork, state: Mapping[str, Any], partial: Sequence[str]) -> list[str] | None:
    """Names that stayed as made; None for names that no table has."""
    if any(name.startswith("swinViT.") for name in state):
        load_monai_swin_unetr(network, state, partial=tuple(partial))
        return [name for name in network.state_dict() if name.startswith("coarse_heads.")]
    if any(name.startswith("enc_stages.") for name in state):
        same_function(network)
        return fit(network, convert(TABLE, state), source=MEDNEXT, partial=partial, stay=("coarse_heads",))
    if any(name.startswith("patch_embed.") for name in state):
        return fill_published(network, state, partial=partial)
    return None
