"""Measure what one training step of a network holds, by running it.

On a CPU the step runs in a process of its own, since the peak of a process can be read but not reset.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ResourceError


@dataclass(frozen=True)
class StepCost:
    """One training step: forward, backward and optimizer.

    Args:
        memory_bytes: peak above what was held before the network was built.
        seconds: of the second step, the first being slower.
    """

    memory_bytes: int
    seconds: float


def measure_step(
    network: Mapping[str, Any],
    roi_size: Sequence[int],
    batch_size: int,
    device: str = "cpu",
    *,
    timeout_s: float = 300.0,
) -> StepCost:
    """Run two training steps and report the second.

    Args:
        network: arguments of `medseg.networks.build_network`.
        roi_size: voxels of a crop.
        batch_size: crops.
        device: `cpu` or a CUDA device.
        timeout_s: give up after this long.

    Raises:
        ResourceError: the step does not fit into memory, or takes longer than `timeout_s`.
    """
    job = json.dumps({"network": dict(network), "roi_size": list(roi_size), "batch_size": batch_size, "device": device})
    if device.startswith("cuda") or network.get("project"):  # a process of its own would not find the user's code
        return _run(json.loads(job))
    what = f"a training step of batch {batch_size} at roi_size {list(roi_size)}"
    try:
        done = subprocess.run(
            # -P: no module out of the working directory
            [sys.executable, "-P", "-m", "medseg.planning.memory", job],
            capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"{what} took over {timeout_s:.0f} s; choose a smaller preset or crop") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ResourceError(f"{what} failed ({last}); choose a smaller preset, or less --memory")
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


def _run(job: dict[str, Any]) -> StepCost:
    import torch

    from medseg.networks import build_network

    device = torch.device(job["device"])
    held = _held(device)
    network = build_network(**job["network"]).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters())
    image = torch.randn(job["batch_size"], job["network"].get("in_channels", 1), *job["roi_size"], device=device)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scales = network.forward_scales(image)
        loss = torch.stack([scale.float().square().mean() for scale in scales]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return StepCost(max(1, _peak(device) - held), seconds)


def _held(device: Any) -> int:
    import psutil
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _peak(device: Any) -> int:
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        # not getrusage: on Linux its maximum survives exec, so that a large parent would be counted
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others kibibytes
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


if __name__ == "__main__":
    cost = _run(json.loads(sys.argv[1]))
    print(json.dumps({"memory_bytes": cost.memory_bytes, "seconds": cost.seconds}))
