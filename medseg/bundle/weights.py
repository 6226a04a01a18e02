"""Weights in and out: safetensors, or a state dict opened with weights_only=True; never another pickle."""

from __future__ import annotations

import hashlib
import pickle
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.config import read_json
from medseg.errors import BundleError, UntrustedBundleError
from medseg.io.atomic import atomic_path
from medseg.layout import Layout, is_bundle

# Keys under which other tools nest the state dict.
NESTED_KEYS = ("state_dict", "model", "network", "model_state_dict")

KNOWN_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8}
    | {torch.uint8, torch.bool}
)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:160] if lines and lines[0].strip() else type(error).__name__


def read_tensors(path: Path) -> object:
    """What torch wrote, opened with weights_only=True; whatever torch raises for a broken file becomes one line.

    Raises:
        BundleError: missing, no plain file, or broken in any way.
        UntrustedBundleError: it holds more than tensors and plain values.
    """
    _refuse_kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a second line on the screen, about a file that is judged below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|Unsupported class) ([\w.]+)", str(error))
        if found is None and not re.search(r"weights_only|[Uu]nsupported (?:operand|class|global)", str(error)):
            raise BundleError(f"{path}: is no readable weights file: {_first_line(error)}") from None
        wants = f"it wants {found.group(1)[:100]}" if found else "it holds more than tensors"
        raise UntrustedBundleError(
            f"{path}: refused, {wants}; only plain tensors are read (weights_only). "
            "Ask its author for a state dict or safetensors."
        ) from error
    except Exception as error:  # a mutated pickle raises anything: KeyError, IndexError, struct.error, MemoryError ...
        raise BundleError(
            f"{path}: is no readable weights file: {_first_line(error)}; copy it again or ask its author"
        ) from error


def remedy_of(path: Path) -> str:
    """How weights come to a path; those of a split bundle lie in halves at its sites."""
    folder = next((one for one in path.parents if is_bundle(one)), None)
    record = None if folder is None else Layout(folder).collaboration
    if record is not None and record.is_file() and read_json(record).get("kind") == "split":
        return (
            "its halves lie at the sites; segment across them with `medseg split predict`, or make one network of them with "
            "`medseg split join`, which discloses the encoders"
        )
    return "train the bundle with `medseg fit`, or put its weights there"


def _refuse_kind(path: Path) -> None:
    """A folder, a pipe or a device in place of a file is named, and never waited for."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: {remedy_of(path)}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path}: is a folder, a pipe or a device, expected a file of weights")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    _refuse_kind(path)
    try:
        return dict(load_file(path))
    except Exception as error:  # SafetensorError, and what torch says of a type it does not know
        raise BundleError(f"{path}: is no readable safetensors file: {_first_line(error)}") from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a weights file on the CPU, by parameter name: dense, real, finite, and as large as their file says.

    Raises:
        BundleError: missing, unreadable, without tensors, or with a tensor that no network of ours has.
        UntrustedBundleError: the file is a pickle that needs more than tensors.
    """
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        content = read_tensors(path)
        for key in NESTED_KEYS:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{path}: holds a {type(content).__name__}, expected a state dict with tensors")
    refuse_faults(content, path)
    return {key.removeprefix("module."): value for key, value in content.items()}


def refuse_faults(state: Mapping[Any, Any], path: Path) -> None:
    """Look at every entry of a stranger's state dict.

    Raises:
        BundleError: an entry is no plain dense tensor of finite numbers; the message names the first.
    """
    for key, value in state.items():
        fault = tensor_fault(value) if isinstance(key, str) else "has a name that is no text"
        if fault:
            raise BundleError(
                f"{path}: entry {str(key)[:100]!r} {fault}; expected plain dense tensors of finite numbers"
            )


def tensor_fault(value: object) -> str | None:
    """Why a value of a weights file cannot be a parameter or buffer of a network, or None."""
    try:
        return _tensor_fault(value)
    except Exception as error:  # a kind of tensor that has no storage, no shape or no sum
        return f"is no plain tensor ({type(error).__name__})"


def _tensor_fault(value: object) -> str | None:
    if not isinstance(value, torch.Tensor):
        return "is no tensor"
    if value.layout != torch.strided:
        return f"is a sparse tensor ({str(value.layout).removeprefix('torch.')})"
    if value.device.type != "cpu":
        return f"holds no values (device {value.device.type})"
    if value.is_quantized:
        return "is quantised"
    if value.is_complex():
        return "is complex"
    if value.dtype not in KNOWN_DTYPES:
        return f"has the type {str(value.dtype).removeprefix('torch.')}"
    if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), value.element_size()):
        return (
            f"has the shape {tuple(value.shape)}, more than the file holds"  # strides of 0: a small file, huge copies
        )
    if (
        value.is_floating_point()
        and value.numel()
        and not bool(torch.isfinite(value.detach().sum(dtype=torch.float64)))
    ):
        return "holds NaN or infinity"
    return None


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network, all of them and nothing else; their values were looked at by who read them.

    Raises:
        BundleError: names, shapes or kinds of number differ, so these are weights of another network; the message names
            the first.
    """
    refuse_misfit(network.state_dict(), state, path)
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise BundleError(f"{path}: does not fit the network: {_first_line(error)}") from error


def refuse_misfit(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Compare weights with a network's own state (which may lie on the meta device), without copying.

    Raises:
        BundleError: see `load_into`.
    """
    missing = sorted(set(own) - set(state))
    extra = sorted(str(name) for name in set(state) - set(own))
    shared = [name for name in own if name in state]
    shapes = [name for name in shared if own[name].shape != state[name].shape]
    if missing or extra or shapes:
        first = (
            f"{shapes[0]} is {tuple(state[shapes[0]].shape)}, expected {tuple(own[shapes[0]].shape)}"
            if shapes
            else f"{(missing or extra)[0][:100]} is {'missing' if missing else 'unknown'}"
        )
        raise BundleError(
            f"{path}: weights of another network: {first} "
            f"({len(missing)} missing, {len(extra)} unknown, {len(shapes)} of another shape)"
        )
    kinds = [name for name in shared if own[name].is_floating_point() != state[name].is_floating_point()]
    if kinds:
        raise BundleError(
            f"{path}: {kinds[0]} holds {str(state[kinds[0]].dtype).removeprefix('torch.')}, expected "
            f"{str(own[kinds[0]].dtype).removeprefix('torch.')}: weights of another network"
        )


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
