"""Part 4: does it learn alike? 20 steps on the kernels against 20 on the reference; then ten seconds of four networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.networks import build_network

PRESETS = ("segmamba", "swin_unetr", "gated_deltanet_h2", "resenc_unet")
ALLOWED = 1e-2  # difference of the losses


def jobs(dry: bool) -> list[dict[str, Any]]:
    """Two processes per preset: alike, and for a while."""
    if dry:
        return [{"name": "alike segmamba", "preset": "segmamba", "alike": True, "seconds": 300}]
    return [{"name": f"alike {p}", "preset": p, "alike": True, "seconds": 25} for p in PRESETS] + [
        {"name": f"while {p}", "preset": p, "alike": False, "seconds": 25} for p in PRESETS
    ]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """One preset."""
    device, origin = "cpu" if dry else "cuda", "file" if crops else "blobs"
    if job["alike"]:
        losses = {}
        for backend in (None, "reference"):
            changed = {} if backend is None else {"MEDSEG_BACKEND": backend}
            with mock.patch.dict("os.environ", changed):
                losses[backend] = train(job["preset"], device, crops, 1 if dry else 20, side=32 if dry else 64)[0]
        worst = max(abs(a - b) for a, b in zip(losses[None], losses["reference"], strict=True))
        bad = {} if worst < ALLOWED else {"loss": worst}
        steps.add("training", job["name"], crops=origin, difference=worst, wrong=bad, last=losses[None][-1])
        return
    losses, dice = train(job["preset"], device, crops, 10_000, side=64, seconds=10)
    steps.add("training", job["name"], crops=origin, steps=len(losses), first=losses[0], last=losses[-1], dice=dice)


def train(
    preset: str, device: str, crops: Path | None, most: int, *, side: int, seconds: float = 1e9
) -> tuple[list[float], float]:
    """Losses of every step, and the mean Dice of the foreground in the last one."""
    torch.manual_seed(0)
    given = batches(crops, side)
    image, label = next(given)
    network = build_network(preset, out_channels=max(3, int(label.max()) + 1)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses, until, dice = [], time.monotonic() + seconds, 0.0
    while len(losses) < most and time.monotonic() < until:
        x, y = image.to(device), label.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = network(x)
        loss = functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        found = logits.argmax(1)
        dice = float(2 * ((found == y) & (y > 0)).sum() / ((found > 0).sum() + (y > 0).sum()).clamp(min=1))
        image, label = next(given)
    return losses, dice


def batches(crops: Path | None, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (1, 1, S, S, S) and labels (1, S, S, S), round and round: crops of a file, or blobs of two sizes in noise."""
    if crops is not None:
        held = np.load(crops)
        pairs = list(zip(held["image"], held["label"], strict=True))
    else:
        random = np.random.default_rng(0)
        axes = np.meshgrid(*[np.arange(side)] * 3, indexing="ij")
        pairs = []
        for _ in range(8):
            label = np.zeros((side,) * 3, np.int64)
            for value in (1, 2):
                center = random.integers(side // 4, 3 * side // 4, 3)
                inside = sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < (side // (5 + value)) ** 2
                label[inside] = value
            pairs.append((label + random.normal(0, 0.5, label.shape), label))
    while True:
        for image, label in pairs:
            x = torch.as_tensor(np.asarray(image), dtype=torch.float32)
            y = torch.as_tensor(np.asarray(label).astype(np.int64))
            space = [n for size in reversed(x.shape) for n in (0, max(0, side - size))]
            x, y = functional.pad(x, space), functional.pad(y, space)
            yield x[None, None, :side, :side, :side], y[None, :side, :side, :side]
