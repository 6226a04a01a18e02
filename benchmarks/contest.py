"""Time contenders against each other in one process: interleaved rounds, since a busy machine slows all of them alike."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from medseg.tracking.manifest import code_commit

RESULTS = Path(__file__).with_name("results")


def interleave(
    contenders: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Wall seconds of each contender: minimum and median over rounds, and the median of CPU seconds.

    Args:
        contenders: name -> what to run once.
        rounds: each round runs every contender once.
        warm_up: rounds that are not counted.
    """
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            run()
            if number >= warm_up:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - started_cpu)
    return {
        name: {
            "min_s": min(wall[name]),
            "median_s": statistics.median(wall[name]),
            "cpu_median_s": statistics.median(cpu[name]),
        }
        for name in contenders
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on; no host name, user or path."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "date": datetime.now(UTC).date().isoformat(),
        "commit": code_commit(),
    }


def ratio(times: Mapping[str, Mapping[str, float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is, by the medians of the CPU seconds, which a busy neighbour moves least."""
    return times[slow]["cpu_median_s"] / times[fast]["cpu_median_s"]


def save(name: str, facts: Mapping[str, Any]) -> Path:
    """Write results/NAME-DEVICE-DATE.json and print it."""
    about = machine()
    content = {"benchmark": name, "machine": about, **facts}
    path = RESULTS / f"{name}-cpu-{about['date']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))
    return path


def high_water() -> int:
    """Peak resident bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def run_medseg(words: Sequence[str], folder: Path, environment: Mapping[str, str], name: str) -> resource.struct_rusage:
    """Run one command of medseg in a folder, its words into log.txt there; what it and its workers used. Ends where it fails."""
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "medseg", *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{name}: medseg {words[0]} ended with {child.returncode}, see {folder / 'log.txt'}")
    return usage


def ask(script: str, *words: str) -> Any:
    """Run a file of this folder in a fresh process and read the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False, cwd=RESULTS.parents[1]
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
