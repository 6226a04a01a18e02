"""Others' weights into a network: all of them, or the parts that were named; else an error that says what is wrong first."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError

from .tables import Converted

log = logging.getLogger(__name__)

# Keys under which training programs nest a state dict, and what parallel and compiled modules put before every name.
NESTED_KEYS = ("state_dict", "model", "network", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")


def plain_state(content: object, source: str = "weights") -> dict[str, Tensor]:
    """A state dict without the wrapping of the program that wrote it.

    Args:
        content: a state dict, one inside a dictionary, or one whose names all start with `module.`.
        source: whose it is, for messages.

    Raises:
        ConfigError: no mapping of names to tensors.
    """
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{source}: found {type(content).__name__}, expected a state dict: names and tensors")
    other = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ConfigError(f"{source}: entry {str(other)[:100]!r} is {type(content[other]).__name__}, expected a tensor")
    state = {str(name): value for name, value in content.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    halves = sum(value.dtype in (torch.float16, torch.bfloat16) for value in state.values())
    if halves:
        log.warning(
            "%s: %d of %d entries are in half precision: predictions have its rounding", source, halves, len(state)
        )
    return state


def fit(
    network: nn.Module,
    found: Converted,
    *,
    source: str = "weights",
    partial: Sequence[str] = (),
    stay: Sequence[str] = (),
) -> list[str]:
    """Copy converted weights into a network.

    Args:
        network: to be filled; nothing is copied unless everything fits.
        found: weights under our names.
        source: whose they are, for messages.
        partial: beginnings of our names (`head`, `decoder`) that may stay as made where they do not fit.
        stay: beginnings of names that such weights never have; they stay as made.

    Returns:
        Names that stayed as made.

    Raises:
        ConfigError: the first entry that does not fit, and the share of the network's entries that does.
    """
    own = network.state_dict()
    state = {name: value for name, value in found.state.items() if name in own and _fits(value, own[name])}
    free = [name for name in own if within(name, stay)]
    wrong = [name for name in own if name not in state and not within(name, [*partial, *stay])]
    homeless = [] if partial else [*found.unknown, *(found.origin[name] for name in found.state if name not in own)]
    if wrong or homeless:
        needed = len(own) - len(free)
        fitting = needed - sum(name not in state and not within(name, stay) for name in own)
        raise ConfigError(
            f"{source}: {_first(wrong, homeless, found, own)}; {fitting} of the network's {needed} entries fit "
            f"({fitting / max(needed, 1):.0%}), nothing was loaded. Build the network of their size and dimensions, or name "
            "what may stay as it is: --partial NAME, partial=[...]"
        )
    kept = [name for name in own if name not in state]
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value.reshape(own[name].shape))  # state_dict() shares memory with the network
    if kept:
        log.info("%s: %d of %d entries loaded; as made: %s", source, len(state), len(own), ", ".join(kept))
    return kept


def within(name: str, beginnings: Sequence[str]) -> bool:
    """Whether a name is one of `beginnings` or lies below it; an empty one holds for all."""
    return any(part == "" or name == part or name.startswith(f"{part}.") for part in beginnings)


def _fits(value: Tensor, own: Tensor) -> bool:
    """The same shape, but for axes of length 1 at the end of either (a convolution of one tap along a sequence)."""
    if value.is_floating_point() != own.is_floating_point():
        return False
    return value.shape == own.shape or (value.numel() == own.numel() and _long(value) == _long(own))


def _long(value: Tensor) -> list[int]:
    return [side for side in value.shape if side > 1]


def _first(wrong: list[str], homeless: list[str], found: Converted, own: Mapping[str, Tensor]) -> str:
    """What is wrong with the first entry."""
    if not wrong:
        return f"{homeless[0]!r} has no place in the network"
    name = wrong[0]
    if name in found.state:
        value, wanted = found.state[name], own[name]
        kinds = ("", "")
        if value.is_floating_point() != wanted.is_floating_point():
            kinds = (
                f" of {str(value.dtype).removeprefix('torch.')}",
                f" of {str(wanted.dtype).removeprefix('torch.')}",
            )
        shapes = f"{tuple(value.shape)}{kinds[0]}, expected {tuple(wanted.shape)}{kinds[1]}"
        return f"{found.origin[name]!r} is {shapes} ({name})"
    also = f"; {homeless[0]!r} has no place" if homeless else ""
    return f"nothing for {name} {tuple(own[name].shape)}{also}"
