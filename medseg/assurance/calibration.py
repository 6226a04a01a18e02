"""Do probabilities mean what they say: one temperature for all logits, the calibration error, the reliability diagram.

Sources: Guo et al. 2017 (temperature); Naeini et al. 2015 (expected calibration error). Errors are taken over voxels that are
foreground or were predicted so: background alone makes every network look calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
RANGE = (0.2, 10.0)
GROUPS = 5


@dataclass(frozen=True)
class Sampled:
    """Voxels of one case.

    Args:
        logits: (N, K).
        truth: (N,) index of the true output.
        weight: (N,) how many voxels of the case each stands for.
    """

    logits: NDArray[np.floating[Any]]
    truth: NDArray[np.integer[Any]]
    weight: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Calibration:
    """What the samples of all cases say.

    Args:
        temperature: minimises the negative log-likelihood, every output weighing the same.
        before, after: expected calibration error without and with a temperature learned on other cases.
        bins: (confidence, accuracy, share) of each filled bin, before.
        bins_after: the same, after.
        voxels: number of samples.
        note: why nothing was learned.
    """

    temperature: float = 1.0
    before: float = float("nan")
    after: float = float("nan")
    bins: tuple[tuple[float, float, float], ...] = ()
    bins_after: tuple[tuple[float, float, float], ...] = ()
    voxels: int = 0
    note: str = ""


def calibrate(cases: Sequence[Sampled]) -> Calibration:
    """Learn a temperature on all cases; its error is measured five times on a fifth that it was not learned on."""
    cases = [case for case in cases if len(case.truth)]
    if len(cases) < 2:
        return Calibration(note=f"{len(cases)} cases with samples; two or more are needed for a temperature")
    temperature = best_temperature(cases)
    scaled: list[tuple[Sampled, float]] = []
    for group in range(min(GROUPS, len(cases))):
        others = [case for number, case in enumerate(cases) if number % GROUPS != group]
        own = best_temperature(others)
        scaled += [(case, own) for number, case in enumerate(cases) if number % GROUPS == group]
    before = reliability([(case, 1.0) for case in cases])
    after = reliability(scaled)
    count = sum(len(case.truth) for case in cases)
    return Calibration(temperature, calibration_error(before), calibration_error(after), before, after, count)


def best_temperature(cases: Sequence[Sampled]) -> float:
    """The temperature of the smallest negative log-likelihood; each output's voxels weigh as much as another's."""
    from scipy.optimize import minimize_scalar

    logits = np.concatenate([case.logits for case in cases]).astype(np.float64)
    truth = np.concatenate([case.truth for case in cases])
    counts = np.bincount(truth, minlength=logits.shape[1])
    weight = 1.0 / counts[truth]
    weight /= weight.sum()

    def loss(log_temperature: float) -> float:
        return float(-(weight * _log_shares(logits, np.exp(log_temperature))[np.arange(len(truth)), truth]).sum())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))


def reliability(cases: Sequence[tuple[Sampled, float]]) -> tuple[tuple[float, float, float], ...]:
    """(mean confidence, accuracy, share of voxels) per filled bin, over voxels that are foreground or predicted so."""
    parts = []
    for case, temperature in cases:
        shares = np.exp(_log_shares(case.logits.astype(np.float64), temperature))
        first = shares.argmax(1)
        kept = (first > 0) | (case.truth > 0)
        parts.append((shares.max(1)[kept], (first == case.truth)[kept], case.weight[kept]))
    top, right, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not weight.sum():
        return ()
    place = np.minimum((top * BINS).astype(int), BINS - 1)
    found = []
    for number in range(BINS):
        mine = place == number
        mass = weight[mine].sum()
        if mass:
            found.append(
                (
                    float((top * weight)[mine].sum() / mass),
                    float((right * weight)[mine].sum() / mass),
                    float(mass / weight.sum()),
                )
            )
    return tuple(found)


def calibration_error(bins: Sequence[tuple[float, float, float]]) -> float:
    """Expected calibration error of `reliability`'s bins.

    Example:
        >>> round(calibration_error([(0.9, 0.8, 0.5), (0.6, 0.6, 0.5)]), 3)
        0.05
    """
    return sum(share * abs(confidence - accuracy) for confidence, accuracy, share in bins)


def _log_shares(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    scaled = logits / temperature
    scaled = scaled - scaled.max(1, keepdims=True)
    result: NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    return result
