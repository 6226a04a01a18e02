"""Weights in and out: safetensors, or a state dict opened with weights_only=True; never another pickle."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.errors import BundleError, UntrustedBundleError
from medseg.io.atomic import atomic_path

# Keys under which other tools nest the state dict.
NESTED_KEYS = ("state_dict", "model", "network", "model_state_dict")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _read_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|Unsupported class) ([\w.]+)", str(error))
        wants = f"it wants {found.group(1)}" if found else "it holds more than tensors"
        raise UntrustedBundleError(
            f"{path}: refused, {wants}; only plain tensors are read (weights_only). "
            "Ask its author for a state dict or safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise BundleError(
            f"{path}: is no readable weights file: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a weights file on the CPU, by parameter name.

    Raises:
        BundleError: missing, unreadable, or without tensors.
        UntrustedBundleError: the file is a pickle that needs more than tensors.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing: train the bundle first with `medseg fit`, or copy the weights there")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise BundleError(f"{path}: is no readable safetensors file: {error}") from error
    content = _read_pickled(path)
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    wrong = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise BundleError(f"{path}: entry {wrong[0]!r} is no tensor")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network, all of them and nothing else.

    Raises:
        BundleError: names or shapes differ, so these are weights of another network; the message names the first.
    """
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or extra or shapes:
        first = (
            f"{shapes[0]} is {tuple(state[shapes[0]].shape)}, expected {tuple(own[shapes[0]].shape)}"
            if shapes
            else f"{(missing or extra)[0]} is {'missing' if missing else 'unknown'}"
        )
        raise BundleError(
            f"{path}: weights of another network: {first} "
            f"({len(missing)} missing, {len(extra)} unknown, {len(shapes)} of another shape)"
        )
    network.load_state_dict(dict(state), strict=True)


def write_state_dict(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Save a plain state dict (.pt) or safetensors, atomically; tensors are moved to the CPU."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            # safetensors refuses tensors that share memory
            save_file({name: value.clone() for name, value in tensors.items()}, temporary)
        else:
            torch.save(tensors, temporary)
