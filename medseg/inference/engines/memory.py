"""Which engine was fastest for which network on this machine, so that timing is paid for once."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Any

import torch

from medseg.config import read_json
from medseg.io.atomic import write_json

log = logging.getLogger(__name__)


def choice_key(network: torch.nn.Module, example: torch.Tensor, precision: str) -> str:
    """A hash of all that the choice depends on."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    device = torch.cuda.get_device_name(example.device) if example.device.type == "cuda" else _cpu_name()
    versions = [torch.__version__, package_version("openvino")]
    settings = [type(network).__name__, tuple(example.shape), precision, device, torch.get_num_threads(), *versions]
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:24]


def package_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("model name", "flags"))), platform.processor())
    except OSError:
        return platform.processor() + platform.machine()


def cache_folder() -> Path:
    base = os.environ.get("MEDSEG_CACHE")
    if base:
        return Path(base)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "medseg"


def memory_file() -> Path:
    return cache_folder() / "engines.json"


def remembered_choices() -> dict[str, Any]:
    try:
        values = read_json(memory_file())
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def remember_choice(key: str, name: str) -> None:
    try:
        write_json(memory_file(), {**remembered_choices(), key: name})
    except (OSError, ValueError) as error:  # a read-only cache costs only the timing next time
        log.debug("the choice of engine cannot be remembered: %s", error)
