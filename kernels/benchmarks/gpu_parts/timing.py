"""Three numbers of a call on a GPU: replayed as a graph, eager between events, and what the host spends on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def three_numbers(call: Callable[[], Any], runs: int = 20) -> dict[str, Any]:
    """graph_us, eager_us, host_us: medians; on a CPU host_us alone. A call that cannot be captured says why."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        call()
        return {"host_us": (time.perf_counter() - start) * 1e6}
    for _ in range(4):
        call()
    torch.cuda.synchronize()
    found: dict[str, Any] = {"eager_us": between_events(call, runs)}
    hosts = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        hosts.append((time.perf_counter() - start) * 1e6)
    torch.cuda.synchronize()
    found["host_us"] = statistics.median(hosts)
    try:
        found["graph_us"] = between_events(captured(call).replay, runs)
    except RuntimeError as error:
        found["no_graph"] = str(error).splitlines()[0][:200]
    return found


def captured(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The call as a graph, after a run on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def between_events(call: Callable[[], Any], runs: int) -> float:
    """Median microseconds of a call that only starts work on the GPU."""
    times = []
    for _ in range(runs):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) * 1e3)
    return statistics.median(times)


def dearest(call: Callable[[], Any], most: int = 8) -> dict[str, float]:
    """Kernel -> microseconds on the GPU in one call, by the profiler."""
    if not torch.cuda.is_available():
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda row: -row.device_time_total)[:most]
    return {row.key[:60]: round(row.device_time_total, 1) for row in rows}
