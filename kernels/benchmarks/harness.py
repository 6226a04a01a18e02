"""What every kernel benchmark shares: interleaved timing, peak memory, a check before any timing, results as JSON.

Contenders run in turn within one process, so that a disturbance of the machine hits all of them; medians are reported.
A contender whose result is wrong is not timed.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
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


def gpu_peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which the GPU's allocator grows at most during a call, its result included."""
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize()
    return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class Work:
    """What to measure: a call, and the tensors that it is given; its result is one tensor or several."""

    call: Callable[[], Any]
    inputs: list[Tensor]


def peak_memory(script: str, function: str, small: list[Any], large: list[Any], threads: int = 0) -> dict[str, Any]:
    """Peak memory of a call in a process of its own, which has run nothing else but the same call at a tiny size.

    That first call loads code and starts threads, which so do not count. Then the inputs are made, what the allocator
    holds free is given back, the high-water mark is reset, and the call runs once. Linux only.

    Args:
        script: file of the benchmark, `__file__`.
        function: name of a function in it that takes the arguments below and returns a `Work`.
        small: arguments of a tiny case.
        large: arguments of the case to measure.
        threads: torch's threads in that process; 0 for as many as here.

    Returns:
        bytes: inputs, outputs, growth (how far the process grew beyond its inputs); and their ratios.
    """
    command = [sys.executable, str(Path(__file__).resolve()), script, function, json.dumps(small), json.dumps(large)]
    command.append(str(threads or torch.get_num_threads()))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the process that measures {function} of {script} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory_table(
    script: str, cases: list[dict[str, Any]], small: dict[str, Any], threads: tuple[int, ...] = (1, 2)
) -> list[dict[str, Any]]:
    """`peak_memory` of a script's `memory_work` for cases that differ in "tokens" only or not, and whether it is linear.

    Args:
        script: file of the benchmark.
        cases: arguments of `memory_work` by name, in its order; one of them is "tokens".
        small: values that make a case tiny.
        threads: numbers of threads to measure with.

    Returns:
        one row per case and number of threads; "growth_per_token" is the growth beyond the inputs in bytes.
    """
    rows = []
    for count in threads:
        for case in cases:
            found = peak_memory(script, "memory_work", list({**case, **small}.values()), list(case.values()), count)
            rows.append({**case, "threads": count, **found, "growth_per_token": found["growth_bytes"] / case["tokens"]})
            print(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()},
                file=sys.stderr,
                flush=True,
            )
    return rows


def _measure_peak(script: str, function: str, small: str, large: str, threads: str) -> None:
    """What the process of `peak_memory` does."""
    torch.set_num_threads(int(threads))
    sys.path.insert(0, str(Path(script).parent))
    spec = importlib.util.spec_from_file_location("measured", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[..., Work] = getattr(module, function)
    for _ in range(2):
        make(*json.loads(small)).call()
    work = make(*json.loads(large))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
    before = _status("VmRSS")
    result = work.call()
    growth = _status("VmHWM") - before
    given, made = _bytes(work.inputs), _bytes([result] if isinstance(result, Tensor) else list(result))
    ratios = {"growth_over_outputs": growth / made, "peak_over_inputs_and_outputs": (given + growth) / (given + made)}
    print(json.dumps({"inputs_bytes": given, "outputs_bytes": made, "growth_bytes": growth, **ratios}))


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


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
        "command": " ".join(["python", f"kernels/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "device": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def commit() -> str:
    """Short name of the checked-out commit, with "+" where the kernels differ from it; empty outside a repository."""
    folder = Path(__file__).resolve().parents[1]
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=folder, check=False
    )
    clean = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], cwd=folder, check=False)
    return name.stdout.strip() + ("+" if name.stdout and clean.returncode == 1 else "")


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


if __name__ == "__main__":
    _measure_peak(*sys.argv[1:])
