"""Made-up CT volumes and networks trained on them for a minute, for the prediction benchmarks. Nothing is downloaded or kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch

CLASSES = 15
LOWER, UPPER = -900.0, 1000.0


def phantom(
    shape: Sequence[int], spacing: Sequence[float], seed: int = 0, classes: int = CLASSES
) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like volume (int16 HU) and its labels: a body of 0 HU, air around, an ellipsoid per class, 100 HU apart from all others.

    Plane by plane along Z, so that a long volume needs no float copy of itself.
    """
    rng = np.random.default_rng(seed)
    extent = np.array([n * s for n, s in zip(shape, spacing, strict=True)])
    axes = [(np.arange(n, dtype=np.float32) - n / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y = axes[0][:, None], axes[1][None, :]
    inside = (x / (0.42 * extent[0])) ** 2 + (y / (0.36 * extent[1])) ** 2 <= 1
    organs = [
        (value, rng.uniform(-0.28, 0.28, 3) * extent, rng.uniform(0.05, 0.12, 3) * extent.min())
        for value in range(1, classes)
    ]
    hu, label = np.empty(tuple(shape), dtype=np.int16), np.zeros(tuple(shape), dtype=np.uint8)
    for k, z in enumerate(axes[2]):
        plane = np.where(inside, 0.0, -1000.0).astype(np.float32)
        for value, centre, radius in organs:
            offset = ((z - centre[2]) / radius[2]) ** 2
            if offset > 1:
                continue
            organ = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + offset <= 1
            organ &= inside
            plane[organ], label[organ, k] = -600.0 + 100.0 * (value + (value > 5)), value
        hu[:, :, k] = plane + rng.normal(0, 12, plane.shape).astype(np.float32)
    return hu, label


def train(
    network: torch.nn.Module,
    prepare: Callable[[np.ndarray], np.ndarray],
    spacing: Sequence[float],
    roi: Sequence[int],
    *,
    steps: int = 40,
    classes: int = CLASSES,
    axes: Sequence[int] = (0, 1, 2),
    until: float = 0.0,
) -> float:
    """Some steps on phantoms, so that logits are those of a network that has learned something. In place.

    Args:
        network: image (B, 1, X, Y, Z) -> logits.
        prepare: HU -> what the network sees.
        spacing: mm per voxel along the network's axes.
        roi: extent of a training patch.
        steps: of AdamW, one patch each.
        classes: background included.
        axes: axis of the phantom (X, Y, Z) that is each axis of the network.
        until: end before the last step where the mean loss of the last 30 is not above this.

    Returns:
        That mean loss.
    """
    torch.manual_seed(0)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rng = np.random.default_rng(1)
    extent = 180.0
    own = [0.0] * 3
    for axis, value in zip(axes, spacing, strict=True):
        own[axis] = value
    shape = [max(int(extent / s), roi[list(axes).index(a)]) for a, s in enumerate(own)]
    scans = [[one.transpose(axes) for one in phantom(shape, own, seed, classes)] for seed in range(1, 4)]
    losses: deque[float] = deque(maxlen=30)
    for step in range(steps):
        hu, label = scans[step % len(scans)]
        first = rng.integers(0, np.array(hu.shape) - np.array(roi) + 1)
        box = tuple(slice(int(a), int(a) + n) for a, n in zip(first, roi, strict=True))
        image = torch.from_numpy(prepare(hu[box].astype(np.float32)))[None, None]
        logits = network(image)
        logits = logits[:, 0] if logits.ndim == 6 else logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label[box].astype(np.int64))[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) == losses.maxlen and sum(losses) / len(losses) <= until:
            break
    network.eval()
    return sum(losses) / max(1, len(losses))


def scaled(hu: np.ndarray) -> np.ndarray:
    """HU clipped to the window of the benchmark and scaled to -1 .. 1."""
    middle, half = (UPPER + LOWER) / 2, (UPPER - LOWER) / 2
    return np.asarray((np.clip(hu, LOWER, UPPER) - middle) / half, dtype=np.float32)
