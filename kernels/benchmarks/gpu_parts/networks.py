"""Part 3: a training step of every nano preset at 96^3, batch 1, bf16, AdamW; then of the named ones at 128^3."""

from __future__ import annotations

from typing import Any

import torch
from gpu_parts.timing import dearest

from medseg.networks import PRESETS, build_network

LARGE = ("segmamba", "swin_unetr", "mambavision", "gated_deltanet_h2", "xlstm_unet", "resenc_unet")
FIRST = ("segmamba", "swin_unetr", "gated_deltanet_h2", "resenc_unet")
TINY = ("segmamba", "swin_unetr")


def jobs(dry: bool) -> list[dict[str, Any]]:
    """One process that goes on with the next preset after a failure."""
    if dry:
        return [{"name": "nano", "seconds": 300, "resume": [f"{name} 32" for name in TINY]}]
    names = [*FIRST, *(name for name in PRESETS if name not in FIRST)]
    steps = [*(f"{name} 96" for name in names), *(f"{name} 128" for name in LARGE)]
    return [{"name": "nano", "seconds": 100, "resume": steps}]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """The steps of the job, each written at once."""
    for step in job["resume"]:
        preset, side = step.split()
        steps.add("networks", step, **train_step(preset, int(side), "cpu" if dry else "cuda"))


def train_step(preset: str, side: int, device: str) -> dict[str, Any]:
    """Median milliseconds and peak bytes of a step, and its dearest kernels."""
    torch.manual_seed(0)
    network = build_network(preset).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    image = torch.randn(1, 1, side, side, side, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = sum(logits.float().square().mean() for logits in network.forward_scales(image))
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()

    step()
    if device == "cpu":
        return {"parameters": sum(p.numel() for p in network.parameters())}
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(4):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        step()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    peak = torch.cuda.max_memory_allocated()
    return {"step_ms": sorted(times)[1], "peak_gb": peak / 2**30, "kernels": dearest(step, 5)}
