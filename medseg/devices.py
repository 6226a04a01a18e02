"""The device that a word stands for, and how much memory this process may still take."""

from __future__ import annotations

from pathlib import Path
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


def free_memory() -> int:
    """Bytes of main memory that this process can have now: of the machine, of its container, of its own limit (`ulimit -v`)."""
    import psutil

    limits = [int(psutil.virtual_memory().available), _container_free(), _address_space_free()]
    return max(0, min(limit for limit in limits if limit is not None))


def _container_free() -> int | None:
    """Bytes left under a container's limit, files in the page cache given back; None without a limit."""
    try:
        root = Path("/sys/fs/cgroup")
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        facts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        cached = int(facts.get("inactive_file", 0)) + int(facts.get("active_file", 0))
        return int(limit) - int((root / "memory.current").read_text()) + cached
    except (OSError, ValueError):
        return None


def _address_space_free() -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # not on Windows; no /proc on macOS
        return None
    return max(0, limit - used)
