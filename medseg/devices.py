"""The device that a word stands for."""

from __future__ import annotations

from typing import Any

from .errors import ConfigError


def choose_device(name: str = "auto") -> Any:
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
        raise ConfigError(f"device {name!r} is none of auto, cpu, cuda, cuda:N, mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} was asked for; this machine shows {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' was asked for; it is not available here")
    return device
