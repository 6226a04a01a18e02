"""The device that a word stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """The `torch.device` that a word stands for: auto takes CUDA (or ROCm), then mps, then the CPU.

    Raises:
        ConfigError: the device is not on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device {name!r} is none of auto, cpu, cuda, cuda:N, mps; --device auto takes what there is"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} was asked for; this machine shows {_shown(torch.cuda.device_count())}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' was asked for; it is not available here; use --device cpu")
    return device


def _shown(count: int) -> str:
    if not count:
        return "no CUDA device; use --device cpu, or see `medseg doctor`"
    return f"cuda:0 to cuda:{count - 1}; use --device cuda:0" if count > 1 else "only cuda:0; use --device cuda"
