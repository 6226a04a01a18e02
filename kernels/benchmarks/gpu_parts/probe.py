"""Part 0: what the machine can do, which calibrates every estimate."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from typing import Any

import torch
from gpu_parts.timing import between_events


def jobs(dry: bool) -> list[dict[str, Any]]:
    return [{"name": "probe", "seconds": 300 if dry else 60}]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """Versions, copy, bf16 product, exp2, latency by pointer chase, host time of launches."""
    versions = {
        d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in WANTED
    }
    device = "cpu" if dry else "cuda"
    name = platform.processor() if dry else torch.cuda.get_device_name()
    steps.add("probe", "versions", device=name, python=platform.python_version(), **versions)
    rate = {"copy_gb_s": _copy(device, dry), "bf16_tflop_s": _product(device, dry)}
    steps.add("probe", "rates", **rate)
    if not dry:
        steps.add("probe", "exp2", **_exponentials())
        steps.add("probe", "latency", **_latency())
    steps.add("probe", "launches", **_launches(dry))


HOPS = 20000
WANTED = ("torch", "triton", "numpy", "monai", "flash-linear-attention", "mamba-ssm")


def _seconds(call: Any, device: str) -> float:
    if device == "cuda":
        call()
        return between_events(call, 5) * 1e-6
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _copy(device: str, dry: bool) -> float:
    a = torch.empty(1 << (18 if dry else 30), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() / _seconds(lambda: b.copy_(a), device) / 1e9


def _product(device: str, dry: bool) -> float:
    n = 64 if dry else 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    return 2 * n**3 / _seconds(lambda: a @ a, device) / 1e12


def _exponentials() -> dict[str, float]:
    from gpu_parts.probe_kernels import exp2_kernel

    out = torch.empty(132 * 8 * 1024, device="cuda")
    grid, rounds = (out.numel() // 1024,), 4096
    call = lambda: exp2_kernel[grid](out, rounds, BLOCK=1024, num_warps=8)  # noqa: E731
    return {"exp2_per_second": out.numel() * rounds / _seconds(call, "cuda")}


def _latency() -> dict[str, float]:
    """Nanoseconds of one dependent load: a ring that fits the L2 cache, and one that does not."""
    from gpu_parts.probe_kernels import chase_kernel

    found = {}
    for label, megabytes in (("l2_ns", 16), ("memory_ns", 2048)):
        entries = megabytes * 2**20 // 4
        stride = 16 * 1021
        ring = ((torch.arange(entries, dtype=torch.int64, device="cuda") + stride) % entries).int()
        out = torch.empty(1, dtype=torch.int32, device="cuda")
        call = functools.partial(chase_kernel[(1,)], ring, out, HOPS, num_warps=1)
        found[label] = _seconds(call, "cuda") / HOPS * 1e9
    return found


def _launches(dry: bool) -> dict[str, float]:
    """Host microseconds of starting a kernel with 0, 20 and 66 arguments, and of a small torch kernel."""
    device = "cpu" if dry else "cuda"
    x = torch.zeros(1, device=device)

    def host(call: Any, runs: int = 200) -> float:
        call()
        start = time.perf_counter()
        for _ in range(runs):
            call()
        return (time.perf_counter() - start) / runs * 1e6

    found = {"torch_us": host(lambda: x.add_(1))}
    if not dry:
        from gpu_parts.probe_kernels import many_kernel, none_kernel, some_kernel

        found["triton_0_us"] = host(lambda: none_kernel[(1,)](num_warps=1))
        found["triton_20_us"] = host(lambda: some_kernel[(1,)](x, *range(2, 21), num_warps=1))
        found["triton_66_us"] = host(lambda: many_kernel[(1,)](x, *range(2, 67), num_warps=1))
    return found
