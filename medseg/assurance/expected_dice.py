"""From what is measured without a reference to the Dice that one may expect: a small regression that cannot run wild.

The network's own expectation (`overlap`) counts with a slope near 1; everything odd about a case (doubt, disagreement, volume,
pieces, cut-off) can only lower the expectation, by weights that are never negative and shrink towards 0 as if five cases had
said so. Ten cases then do no harm, and what was never seen extrapolates downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.evidence import LabelEvidence

PRIOR = 5.0  # cases that the prior counts as
FARTHEST = 6.0  # spreads; a feature counts no more beyond
GROUPS = 5
ODD = ("doubt", "volume", "pieces", "border", "disagreement")


@dataclass(frozen=True)
class Regression:
    """The learned numbers of one label.

    Args:
        intercept, slope: of the overlap.
        weights: feature -> Dice lost per spread of it.
        centre, spread: feature -> mean and standard deviation over the cases it was learned on.
        log_volume: median and spread of the logarithm of the volume in ml.
        agreement: whether members or mirror images voted; a prediction without votes has no such feature.
    """

    intercept: float
    slope: float
    weights: Mapping[str, float]
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    log_volume: tuple[float, float]
    agreement: bool = False

    def expected(self, evidence: LabelEvidence) -> float:
        """Dice between 0 and 1."""
        found = odd_features(evidence, self.log_volume)
        lost = 0.0
        for name, weight in self.weights.items():
            value = found.get(name, math.nan)
            if not math.isnan(value):
                far = (value - self.centre[name]) / self.spread[name]
                lost += weight * min(max(far, -FARTHEST), FARTHEST)
        return min(max(self.intercept + self.slope * evidence.overlap - lost, 0.0), 1.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def of_dict(cls, facts: Mapping[str, Any]) -> Regression:
        """The inverse of `as_dict`. Raises KeyError, TypeError, ValueError for what is no such record."""
        numbers = {name: {str(k): float(v) for k, v in facts[name].items()} for name in ("weights", "centre", "spread")}
        middle, width = (float(value) for value in facts["log_volume"])
        return cls(
            float(facts["intercept"]), float(facts["slope"]), **numbers, log_volume=(middle, width),
            agreement=bool(facts["agreement"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """A regression, and what it expected of each case when it was learned without it."""

    regression: Regression
    expected: list[float] = field(default_factory=list)


def odd_features(evidence: LabelEvidence, log_volume: tuple[float, float]) -> dict[str, float]:
    """What is odd about a label of a case; larger is odder, NaN where it is not known."""
    volume = math.log(max(evidence.volume_ml, 1e-9))
    return {
        "doubt": math.log(max(evidence.doubt, 1e-6)),
        "volume": abs(volume - log_volume[0]) / log_volume[1],
        "pieces": math.log(max(evidence.pieces, 1)),
        "border": evidence.border,
        "disagreement": 1.0 - evidence.agreement,
    }


def learn(cases: Sequence[LabelEvidence], dice: Sequence[float], volumes_ml: Sequence[float]) -> Learned:
    """Learn from cases that the network did not train on.

    Args:
        cases: evidence of one label; those in which it was predicted.
        dice: of each case; no NaN.
        volumes_ml: of the label in the references, to know what is usual.
    """
    logs = np.log([max(value, 1e-9) for value in volumes_ml if value > 0] or [1.0])
    usual = (float(np.median(logs)), max(float(np.std(logs)), 0.05))
    regression = _fit(cases, dice, usual)
    expected = [math.nan] * len(cases)
    for group in range(min(GROUPS, len(cases))):
        rest = [number for number in range(len(cases)) if number % GROUPS != group]
        if not rest:
            continue
        own = _fit([cases[number] for number in rest], [dice[number] for number in rest], usual)
        for number in range(group, len(cases), GROUPS):
            expected[number] = own.expected(cases[number])
    return Learned(regression, expected)


def _fit(cases: Sequence[LabelEvidence], dice: Sequence[float], usual: tuple[float, float]) -> Regression:
    from scipy.optimize import nnls

    rows = [odd_features(case, usual) for case in cases]
    names = [name for name in ODD if not any(math.isnan(row[name]) for row in rows)]
    overlap, odd = np.array([case.overlap for case in cases]), np.array([[row[n] for n in names] for row in rows])
    centre, spread = odd.mean(0), np.maximum(odd.std(0), 1e-3)
    width = max(float(overlap.std()), 1e-3)
    target = np.asarray(dice, dtype=np.float64)
    scaled = -(odd - centre) / spread
    design = np.column_stack([(overlap - overlap.mean()) / width, scaled])
    prior = np.zeros(design.shape[1])
    prior[0] = width  # a slope of 1
    whole = np.vstack([design, math.sqrt(PRIOR) * np.eye(design.shape[1])])
    found: NDArray[np.float64]
    found, _ = nnls(whole, np.concatenate([target - target.mean(), math.sqrt(PRIOR) * prior]))
    slope = float(found[0] / width)
    return Regression(
        float(target.mean() - slope * overlap.mean()),
        slope,
        dict(zip(names, found[1:].tolist(), strict=True)),
        dict(zip(names, centre.tolist(), strict=True)),
        dict(zip(names, spread.tolist(), strict=True)),
        usual,
        "disagreement" in names,
    )
