"""Compile a kernel family's C++ file on first use, keep the library, load it with ctypes.

Plain C functions through ctypes instead of a torch extension: a build takes a second instead of twenty, and the library
is bound to no torch version. The cached file's name is a hash of all that it depends on, so nothing stale is ever loaded;
it is written under a temporary name and renamed, so two processes may build at once.

Environment: `MEDSEG_CACHE` (folder; default the user's cache folder), `CXX` (compiler), `MEDSEG_CPU_KERNELS=0` (never
compile: the torch fallback runs).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# -ffast-math only while compiling: given to the linker it would switch denormals off for the whole process.
COMPILE_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-std=c++17", "-fPIC", "-fopenmp")
LINK_FLAGS = ("-shared", "-fopenmp")


class CpuBuildError(RuntimeError):
    """The compiled CPU kernels cannot be had on this machine; the message says why."""


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    root = os.environ.get("MEDSEG_CACHE")
    if root:
        return Path(root) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "medseg" / "kernels"


def compiler() -> str | None:
    """Path of the C++ compiler that would be used, or None."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    return None


@functools.cache
def why_not() -> str | None:
    """None when compiled kernels can be built here, else the reason in one sentence."""
    if os.environ.get("MEDSEG_CPU_KERNELS", "1") == "0":
        return "switched off by MEDSEG_CPU_KERNELS=0"
    if os.name != "posix":
        return f"compiled kernels are built on Linux and macOS only, this is {platform.system()}"
    if compiler() is None:
        return "no C++ compiler found (looked for $CXX, g++, clang++, c++)"
    return None


@functools.cache
def _cpu_identity() -> str:
    """What -march=native depends on: a library built for another processor must not be loaded."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return platform.processor() + platform.machine()


@functools.cache
def _compiler_identity(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout


@functools.cache
def load(source: Path, *extra_flags: str) -> ctypes.CDLL:
    """The compiled library of one C++ file, built if this machine has not built this very text before.

    Args:
        source: the .cpp file; every exported function is `extern "C"`, must not throw, and takes plain pointers,
            integers and floats that Python has checked.
        extra_flags: more compiler flags.

    Raises:
        CpuBuildError: no compiler, or the compiler failed (its output is in the message).
    """
    if (reason := why_not()) is not None:
        raise CpuBuildError(reason)
    cxx = compiler()
    assert cxx is not None
    # a family's headers lie beside its source
    text = b"\0".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.hpp"))))
    flags = (*COMPILE_FLAGS, *extra_flags)
    recipe = "\n".join([*flags, *LINK_FLAGS, _compiler_identity(cxx), _cpu_identity()]).encode()
    key = hashlib.sha256(text + b"\0" + recipe).hexdigest()[:24]
    target = cache_folder() / f"{source.parent.name}-{key}.so"
    if not target.exists():
        _build(cxx, source, flags, target)
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise CpuBuildError(f"cannot load {target}: {error}. Delete the file to build it again.") from error


def _build(cxx: str, source: Path, flags: tuple[str, ...], target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workdir = tempfile.TemporaryDirectory(dir=target.parent, prefix="build-")
    except OSError as error:
        raise CpuBuildError(f"cannot write to the kernel cache {target.parent}: {error}. Set MEDSEG_CACHE.") from error
    with workdir as folder:
        objects, library = os.path.join(folder, "kernel.o"), os.path.join(folder, "kernel.so")
        for command in ([cxx, *flags, "-c", str(source), "-o", objects], [cxx, *LINK_FLAGS, objects, "-o", library]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CpuBuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        os.replace(library, target)


def in_rows(x: torch.Tensor) -> torch.Tensor:
    """float32 with neighbouring channels side by side, as the compiled forms read."""
    x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
