"""medseg doctor: what this machine has and what will run on it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from typing import Any

from .main import add_common_arguments

PACKAGES = ("torch", "monai", "pytorch-lightning", "mlflow", "numpy", "nibabel", "SimpleITK", "triton")
OPTIONAL = ("nilearn", "pydicom", "highdicom", "onnx", "onnxruntime", "openvino")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "json")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine() -> dict[str, Any]:
    """Facts about this machine as one JSON-ready dict."""
    import psutil
    import torch

    import medseg_kernels
    from medseg import __version__

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "medseg": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in (*PACKAGES, *OPTIONAL)},
        "cpu_cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "gpus": gpus,
        "kernels": medseg_kernels.explain_backend(),
    }


def run(arguments: argparse.Namespace) -> int:
    facts = examine()
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"medseg {facts['medseg']} on Python {facts['python']}, {facts['system']}")
    print(f"  {facts['cpu_cores']} CPU cores ({facts['cpu_capability']}), {facts['memory_gb']} GB memory, ", end="")
    print(f"{facts['disk_free_gb']} GB free on disk here; GPUs: {', '.join(facts['gpus']) or 'none'}")
    for name, version in facts["packages"].items():
        print(f"  {name:18} {version or 'not installed'}")
    print("kernels, the first that runs on tensors of this machine's best device:")
    print(facts["kernels"])
    return 0
