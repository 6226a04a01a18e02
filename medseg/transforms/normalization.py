"""Bring intensities to the range a network was trained on: one entry of a plan per channel.

Entries: {"kind": "zscore"} (MR; optionally "nonzero": true), {"kind": "ct", "lower": -900, "upper": 1300, "mean": 80,
"std": 140} in HU, {"kind": "none"}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, DataError, nearest

# A channel whose values differ by no more than float32's rounding of their mean is constant: it becomes zeros instead of noise.
# The bound is relative, since the unit of an image is anybody's choice: diffusivity in m2/s lies near 1e-9.
SMALLEST_SHARE = 2.0**-24


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation with float64 sums, without a float64 copy."""
    count = values.size
    mean = float(values.sum(dtype=np.float64)) / count
    total = 0.0
    flat = values.ravel(order="K")  # no copy, whatever the order of the axes in memory
    for begin in range(0, count, 1 << 22):
        part = flat[begin : begin + (1 << 22)] - np.float32(mean)
        total += float(np.einsum("i,i->", part, part, dtype=np.float64))
    return mean, float(np.sqrt(total / count))


def _scale(mean: float, std: float) -> np.float32:
    """What a centred channel is multiplied by; 0 for a constant one."""
    return np.float32(1.0 / std) if std > SMALLEST_SHARE * abs(mean) else np.float32(0)


def _zscore(channel: NDArray[np.float32], entry: dict[str, Any]) -> NDArray[np.float32]:
    if entry.get("nonzero"):
        inside = channel != 0
        if not inside.any():
            return channel
        mean, std = _moments(channel[inside])
        channel = np.where(inside, (channel - np.float32(mean)) * _scale(mean, std), np.float32(0))
        return channel.astype(np.float32, copy=False)
    mean, std = _moments(channel)
    channel -= np.float32(mean)
    channel *= _scale(mean, std)
    return channel


def _ct(channel: NDArray[np.float32], entry: dict[str, Any]) -> NDArray[np.float32]:
    np.clip(channel, np.float32(entry["lower"]), np.float32(entry["upper"]), out=channel)
    channel -= np.float32(entry["mean"])
    channel *= _scale(0.0, float(entry["std"]))
    return channel


def _none(channel: NDArray[np.float32], entry: dict[str, Any]) -> NDArray[np.float32]:
    return channel


KINDS = {"zscore": _zscore, "ct": _ct, "none": _none}
_NEEDED = {"zscore": set(), "ct": {"lower", "upper", "mean", "std"}, "none": set()}
_ALLOWED = {"zscore": {"nonzero"}, "ct": _NEEDED["ct"], "none": set()}


def check_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry itself, when it can be applied.

    Raises:
        ConfigError: unknown kind, missing or unknown value.
    """
    kind = entry.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"normalization {entry}: unknown kind {kind!r}. {nearest(str(kind), KINDS)}")
    values = set(entry) - {"kind"}
    if missing := _NEEDED[kind] - values:
        raise ConfigError(f"normalization {entry}: {kind} needs {', '.join(sorted(missing))} as well")
    if unknown := values - _ALLOWED[kind]:
        raise ConfigError(f"normalization {entry}: {kind} does not know {', '.join(sorted(unknown))}")
    return dict(entry)


def normalize(channel: NDArray[np.float32], entry: dict[str, Any]) -> NDArray[np.float32]:
    """Normalize one channel (X, Y, Z) float32; may work in place, so pass a copy when the original is needed.

    Raises:
        DataError: the channel holds NaN or infinite values; a network would spread them over everything.
    """
    if not np.isfinite(channel.sum(dtype=np.float64)):
        count = int(channel.size - np.isfinite(channel).sum())
        raise DataError(f"the image holds {count} NaN or infinite voxels. Replace them with the value of air first.")
    return KINDS[entry["kind"]](channel, entry)
