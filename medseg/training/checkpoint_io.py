"""Checkpoints that are whole or absent.

Lightning writes through the default temporary folder, which may be another file system, and never syncs: a kill or a
power cut can leave half a file under the final name. Here the file is written beside its place, synced and renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from medseg.errors import BundleError
from medseg.io.atomic import atomic_path

# What Lightning needs to go on where a training stopped; it would end in a KeyError without.
NEEDED = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written atomically and read without running pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or ["no details"])[0]
            raise BundleError(
                f"{path}: is no readable checkpoint ({type(error).__name__}: {reason}). Delete it to start again."
            ) from error
        missing = [key for key in NEEDED if not isinstance(loaded, dict) or key not in loaded]
        if missing:
            raise BundleError(
                f"{path}: is no checkpoint of a training: {missing[0]!r} is missing. Delete it to start again."
            )
        return loaded


def steps_inside(checkpoint: Mapping[str, Any]) -> int:
    """How many steps of an unfinished epoch Lightning's checkpoint has behind it; 0 between two epochs."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    inside = epochs["started"] > epochs["processed"]
    return int(loop["epoch_loop.batch_progress"]["current"]["ready"]) if inside else 0


def progress_of(path: Path) -> tuple[int, int]:
    """How many epochs a checkpoint has behind it, and steps of the next one. Raises BundleError where it is none of ours."""
    checkpoint = AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]), steps_inside(checkpoint)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: does not tell its epoch. Delete it to start again.") from error


def write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a plain state dict (tensors on the CPU), atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, temporary)
