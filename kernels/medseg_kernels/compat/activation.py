"""Give this package's modules the names of mamba_ssm and causal_conv1d, in this process only; nothing is written to disk."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from importlib.machinery import PathFinder
from typing import Literal

HERE = "medseg_kernels.compat"
# every module that code may import by its foreign name; packages before what lies in them
NAMES = (
    "mamba_ssm",
    "mamba_ssm.modules",
    "mamba_ssm.modules.block",
    "mamba_ssm.modules.mamba2",
    "mamba_ssm.modules.mamba_simple",
    "mamba_ssm.ops",
    "mamba_ssm.ops.selective_scan_interface",
    "mamba_ssm.ops.triton",
    "mamba_ssm.ops.triton.layer_norm",
    "mamba_ssm.ops.triton.layernorm",
    "mamba_ssm.ops.triton.layernorm_gated",
    "mamba_ssm.ops.triton.selective_state_update",
    "mamba_ssm.ops.triton.ssd_combined",
    "mamba_ssm.utils",
    "mamba_ssm.utils.generation",
    "mamba_ssm.utils.hf",
    "causal_conv1d",
    "causal_conv1d.causal_conv1d_interface",
    "causal_conv1d.causal_conv1d_varlen",
    "selective_scan_cuda",
    "selective_scan_cuda_core",
    "selective_scan_cuda_oflex",
)
PACKAGES = tuple(name for name in NAMES if "." not in name)
CHOICES = ("ask", "replace", "keep")
Choice = Literal["ask", "replace", "keep"]


class ForeignPackageError(RuntimeError):
    """Another mamba_ssm or causal_conv1d is here, and which one is to run was not said."""


def _ours(name: str) -> bool:
    return getattr(sys.modules.get(name), "__name__", "").startswith(HERE)


def foreign(package: str) -> str | None:
    """Where another package of this name is: imported already, or installed; None when the name is free."""
    module = sys.modules.get(package)
    if module is not None and not _ours(package):
        return f"already imported from {getattr(module, '__file__', None) or 'an unknown place'}"
    spec = PathFinder.find_spec(package)
    if spec is None:
        return None
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return f"{version}, installed in {spec.origin or list(spec.submodule_search_locations or [])}"


def activate(installed: Choice = "ask") -> list[str]:
    """Let `import mamba_ssm`, `import causal_conv1d` and `import selective_scan_cuda` find medseg's operators.

    Args:
        installed: what to do where a package of such a name is imported or installed already: `ask` is an error that says
            so; `replace` takes its name in this process; `keep` leaves it and registers the names that are free.

    Returns:
        the names that lead here now.

    Raises:
        ForeignPackageError: another such package is here, and `installed` says nothing.
        ValueError: an unknown choice.
    """
    if installed not in CHOICES:
        raise ValueError(f"activate: installed: found {installed!r}, expected one of {', '.join(CHOICES)}")
    others = {package: where for package in PACKAGES if (where := foreign(package)) is not None}
    if others and installed == "ask":
        listed = "; ".join(f"{package} ({where})" for package, where in others.items())
        raise ForeignPackageError(
            f"there is another package of this name: {listed}. activate(installed='replace') gives its name to medseg's "
            "operators in this process, activate(installed='keep') leaves it as it is and takes the names that are free; on "
            "the command line --installed=replace or --installed=keep."
        )
    taken = set(others) if installed == "keep" else set()
    for package, where in others.items():
        if installed == "replace" and where.startswith("already imported"):
            warnings.warn(
                f"medseg_kernels.compat: {package} was {where}: what was taken from it by name stays what it is.",
                stacklevel=2,
            )
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]
    registered = [name for name in NAMES if name.split(".")[0] not in taken]
    for name in registered:
        sys.modules[name] = importlib.import_module(f"{HERE}.{name}")
    return registered


def deactivate() -> None:
    """Free the names that lead here; other packages of these names can be imported again."""
    for name in NAMES:
        if _ours(name):
            del sys.modules[name]
