"""What cross-validation learned of a bundle's trustworthiness, and what it says of a new case.

The record is plain JSON (configs/trust.json of a bundle). It names the SHA-256 of the weights that it speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medseg.errors import BundleError
from medseg.inference.evidence import CaseEvidence, LabelEvidence

from .conformal import COVERAGE, FEWEST, conformal_bound
from .expected_dice import Regression, learn, odd_features

FORMAT = 1
LOWEST = 3  # percent of the cases that were known whose expected Dice calls for a review
BEYOND = 0.5  # of the range that was seen: a number this far outside is odd
WORDS = {
    "doubt": "more unsure voxels than in any case known",
    "volume": "an unusual volume",
    "pieces": "more separate pieces than in any case known",
    "border": "cut off by the border of the image",
    "disagreement": "members or mirror images disagree more than in any case known",
}


@dataclass(frozen=True)
class LabelTrust:
    """One label.

    Args:
        name: of the label.
        regression: of Dice; None where nothing could be learned.
        dice_error: half width of the interval of Dice, volume_factor: of that of the volume; None where there is none.
        floor: an expected Dice below it calls for a review.
        most: odd feature -> how far beyond what was seen begins to be odd.
        cases: how many were learned from.
        expected, dice: of those cases, each expected without itself; for the report.
        note: why something is missing.
    """

    name: str
    regression: Regression | None = None
    dice_error: float | None = None
    volume_factor: float | None = None
    floor: float = 0.0
    most: Mapping[str, float] = field(default_factory=dict)
    cases: int = 0
    expected: tuple[float, ...] = ()
    dice: tuple[float, ...] = ()
    note: str = ""

    @classmethod
    def learned(
        cls,
        name: str,
        cases: Sequence[LabelEvidence],
        dice: Sequence[float],
        reference_ml: Sequence[float],
    ) -> LabelTrust:
        """From evidence, Dice and true volume of each out-of-fold case; Dice NaN where it is not defined."""
        usable = [n for n, one in enumerate(cases) if one.volume_ml > 0 and not math.isnan(dice[n])]
        errors = [
            abs(math.log(reference_ml[n] / cases[n].volume_ml))
            for n in range(len(cases))
            if cases[n].volume_ml > 0 and reference_ml[n] > 0
        ]
        bound = conformal_bound(errors)
        few = f"{len(usable)} cases with this label; an interval needs {FEWEST}"
        if len(usable) < 2:
            return cls(name, cases=len(usable), note=few)
        chosen = [cases[n] for n in usable]
        true = [float(dice[n]) for n in usable]
        found = learn(chosen, true, reference_ml)
        odd = [odd_features(one, found.regression.log_volume) for one in chosen]
        return cls(
            name,
            found.regression,
            conformal_bound([abs(a - b) for a, b in zip(found.expected, true, strict=True)]),
            None if bound is None else math.exp(bound),
            float(np.percentile(found.expected, LOWEST)),
            {key: _edge([row[key] for row in odd])[1] for key in WORDS if not any(math.isnan(row[key]) for row in odd)},
            len(usable),
            tuple(found.expected),
            tuple(true),
            few if len(usable) < FEWEST else "",
        )

    def verdict(self, evidence: LabelEvidence) -> dict[str, Any]:
        """What the record of a case says of this label: expected Dice, intervals, flag and reasons; JSON-ready."""
        volume = evidence.volume_ml
        found: dict[str, Any] = {}
        reasons: list[str] = []
        if volume == 0:
            reasons.append("not found")
        elif self.volume_factor is not None:
            low, high = volume / self.volume_factor, volume * self.volume_factor
            found |= {"volume_ml_low": round(low, 6), "volume_ml_high": round(high, 6)}
        if self.regression is not None and volume > 0:
            expected = self.regression.expected(evidence)
            found["expected_dice"] = round(expected, 4)
            if self.dice_error is not None:
                ends = (max(expected - self.dice_error, 0.0), min(expected + self.dice_error, 1.0))
                found |= {"dice_low": round(ends[0], 4), "dice_high": round(ends[1], 4)}
            if expected < self.floor:
                reasons.append(f"expected Dice {expected:.2f}, lower than in {100 - LOWEST} % of the cases known")
            odd = odd_features(evidence, self.regression.log_volume)
            reasons += [WORDS[key] for key, most in self.most.items() if odd[key] > most]
        if not math.isnan(evidence.agreement):
            found["agreement"] = round(evidence.agreement, 4)
        return {**found, "flag": "review" if reasons else "ok", "reason": "; ".join(reasons)}


@dataclass(frozen=True)
class CaseTrust:
    """All labels of a bundle.

    Args:
        weights: SHA-256 of every weight file that this holds for: the folds' own, and those that predict.
        temperature: for maps of uncertainty.
        calibration: errors before and after, and the bins of the reliability diagram.
        labels: value -> what was learned.
        image: fact of an image -> lowest and highest value that is not odd.
        cases: out-of-fold cases behind all this, folds: those they came from.
        notes: what a reader must know.
    """

    weights: tuple[str, ...]
    temperature: float
    labels: Mapping[int, LabelTrust]
    image: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    cases: int = 0
    folds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def verdicts(self, evidence: CaseEvidence) -> dict[int, dict[str, Any]]:
        """label value -> `LabelTrust.verdict`; an image unlike those known flags all labels."""
        strange = self.strange(evidence.image)
        found = {}
        for value, trust in self.labels.items():
            row = trust.verdict(evidence.labels[value])
            if strange:
                row = row | {"flag": "review", "reason": "; ".join(filter(None, [row["reason"], strange]))}
            found[value] = row
        return found

    def strange(self, image: Mapping[str, float]) -> str:
        """How the image lies outside of what was known, in words; empty when it does not."""
        beyond = [name for name, (low, high) in self.image.items() if name in image and not low <= image[name] <= high]
        return f"an image unlike those known ({beyond[0]})" if beyond else ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        labels = {str(value): asdict(trust) for value, trust in self.labels.items()}
        return {"format": FORMAT, "coverage": COVERAGE, **asdict(self), "labels": labels}

    @classmethod
    def of_dict(cls, facts: object, place: str) -> CaseTrust:
        """The inverse of `as_dict`.

        Raises:
            BundleError: no such record; the message names the place.
        """
        try:
            if not isinstance(facts, Mapping):
                raise ValueError("no table")
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}, this medseg reads {FORMAT}")
            labels = {int(value): _label_of(row) for value, row in facts["labels"].items()}
            image = {str(name): (float(low), float(high)) for name, (low, high) in facts["image"].items()}
            temperature = float(facts["temperature"])
            if not 0 < temperature < math.inf:
                raise ValueError(f"temperature {temperature}")
            return cls(
                tuple(str(one) for one in facts["weights"]), temperature, labels, image, dict(facts["calibration"]),
                int(facts["cases"]), tuple(int(fold) for fold in facts["folds"]), tuple(str(n) for n in facts["notes"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{place}: is no record of `medseg cv`: {type(error).__name__} {error}; run `medseg cv` again, or delete it"
            ) from error


def image_ranges(images: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Fact -> what is not odd: the range that was seen, and half of it beyond; nothing with fewer than ten images."""
    if len(images) < FEWEST:
        return {}
    shared = set(images[0]).intersection(*images)
    return {name: _edge([image[name] for image in images]) for name in images[0] if name in shared}


def _edge(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = BEYOND * max(high - low, 1e-3 * max(abs(low), abs(high)))
    return low - room, high + room


def _label_of(row: Mapping[str, Any]) -> LabelTrust:
    def number(name: str) -> float | None:
        return None if row[name] is None else float(row[name])

    return LabelTrust(
        str(row["name"]),
        None if row["regression"] is None else Regression.of_dict(row["regression"]),
        number("dice_error"),
        number("volume_factor"),
        float(row["floor"]),
        {str(key): float(value) for key, value in row["most"].items() if key in WORDS},
        int(row["cases"]),
        tuple(float(value) for value in row["expected"]),
        tuple(float(value) for value in row["dice"]),
        str(row["note"]),
    )
