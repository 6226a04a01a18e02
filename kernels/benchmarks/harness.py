"""What every kernel benchmark shares: interleaved timing, peak memory, a check before any timing, results as JSON.

Contenders run in turn within one process, so that a disturbance of the machine hits all of them; medians are reported.
A contender whose result is wrong is not timed.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
NOT_MEASURED = "not measured on a GPU"


class WrongResultError(RuntimeError):
    """A contender computes something else: it is not timed."""


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def require_close(name: str, found: Tensor, expected: Tensor, bound: float) -> float:
    """The error of a contender's result.

    Raises:
        WrongResultError: it is above the bound.
    """
    distance = error(found, expected)
    if not distance < bound:
        raise WrongResultError(f"{name}: error {distance:.1e}, allowed {bound:.1e}: not timed")
    return distance


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    contenders: dict[str, Callable[[], Any]], rounds: int, often: dict[str, int] | None = None
) -> dict[str, Any]:
    """Median seconds of each contender.

    Args:
        contenders: name -> what to time.
        rounds: how many times all of them run in turn, after one run that is not counted.
        often: runs per round of a contender that is much faster than the others (default 1).

    Returns:
        name -> {"median_s", "fastest_s", "runs"}.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, call in contenders.items():
            for _ in range((often or {}).get(name, 1)):
                synchronize()
                start = time.perf_counter()
                call()
                synchronize()
                if round_number > 0:
                    times[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(seen), "fastest_s": min(seen), "runs": len(seen)}
        for name, seen in times.items()
    }


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which the process (or the GPU's allocator) grows at most during a call, its result included. Linux only."""
    if torch.cuda.is_available():
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    reading, writing = os.pipe()
    child = os.fork()  # a fresh process: what earlier calls left in the allocator does not count
    if child == 0:
        torch.set_num_threads(1)  # the parent's thread pool does not survive a fork
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
        before = _status("VmRSS")
        result = call()
        os.write(writing, json.dumps(_status("VmHWM") - before).encode())
        del result
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return int(json.loads(pipe.read()))


def _status(field: str) -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) * 1024


def environment() -> dict[str, Any]:
    """Device, versions and date, for the head of a result."""
    versions = {}
    for package in ("torch", "triton", "numpy", "mambapy", "mamba-ssm", "flash-linear-attention", "monai"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.date.today().isoformat(),
        "device": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def save(name: str, content: dict[str, Any]) -> Path:
    """Write results/NAME-DEVICE-DATE.json; a second run on the same day replaces the first."""
    head = environment()
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{kind}-{head['date']}.json"
    path.write_text(json.dumps({**head, **content}, indent=1) + "\n")
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", file=sys.stderr)
    return path
