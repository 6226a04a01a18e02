"""How a score falls as a scan differs more and more: one curve per shift, and the strength at which 0.05 of Dice is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.evaluation.digits import difference, interval
from medseg.evaluation.report import charts
from medseg.evaluation.report.page import Section
from medseg.evaluation.statistics import Interval, mean_interval, paired_difference
from medseg.transforms.shifts import Shift

FALL = 0.05


@dataclass(frozen=True)
class StressCurve:
    """One shift's scores.

    Args:
        name: of the shift, a key of `medseg.transforms.shifts.SHIFTS`.
        what: the shift in words.
        unit: of the strengths.
        strengths: the untouched one first.
        dice: per strength, each case's mean Dice over labels, in one order of cases; NaN where no label is left.
    """

    name: str
    what: str
    unit: str
    strengths: tuple[float, ...]
    dice: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, name: str, shift: Shift, dice: Sequence[Sequence[float]]) -> StressCurve:
        """The curve of a shift from its scores, those of the untouched scans first."""
        strengths = (shift.untouched, *map(float, shift.strengths))
        return cls(name, shift.what, shift.unit, strengths, tuple(tuple(row) for row in dice))

    def changes(self) -> list[float]:
        """Per strength the mean change of Dice against the same cases untouched; NaN where no case has both."""
        first = np.asarray(self.dice[0])
        moved = [np.asarray(row) - first for row in self.dice]
        return [float(np.nanmean(row)) if not np.isnan(row).all() else math.nan for row in moved]

    def mean(self, number: int) -> Interval:
        """Mean Dice at one strength with its interval over cases."""
        return mean_interval(self.dice[number], bounds=(0.0, 1.0))

    def falls_at(self, fall: float = FALL) -> float:
        """The strength at which the mean has fallen by `fall`, between those tried on a straight line; NaN: at none of them."""
        changes = self.changes()
        for before, after in zip(range(len(changes)), range(1, len(changes)), strict=False):
            if changes[after] <= -fall:
                share = (-fall - changes[before]) / (changes[after] - changes[before])
                return self.strengths[before] + share * (self.strengths[after] - self.strengths[before])
        return math.nan

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON; NaN becomes None."""
        falls = self.falls_at()
        return {
            "shift": self.name,
            "what": self.what,
            "unit": self.unit,
            "strengths": list(self.strengths),
            "mean_dice": [_or_none(self.mean(n).mean) for n in range(len(self.strengths))],
            "change": [_or_none(value) for value in self.changes()],
            "falls_by_0.05_at": _or_none(falls),
            "dice": [[_or_none(value) for value in row] for row in self.dice],
        }


HEADER = ("shift", "untouched", "strongest", "Dice there", "change (95 % interval)", f"falls by {FALL} at")


def rows(curves: Sequence[StressCurve]) -> list[list[str]]:
    """The cells below `HEADER`, the shift that is felt first on top."""
    found = []
    for curve in sorted(curves, key=lambda one: min(one.changes())):
        first, last = curve.mean(0), curve.mean(-1)
        moved = paired_difference(curve.dice[-1], curve.dice[0])
        falls = curve.falls_at()
        found.append(
            [
                curve.name, interval(first.mean, first.low, first.high), f"{curve.strengths[-1]:g} {curve.unit}",
                interval(last.mean, last.low, last.high), difference(moved.mean, moved.low, moved.high),
                "not within what was tried" if math.isnan(falls) else f"{falls:.2g} {curve.unit}",
            ]
        )  # fmt: skip
    return found


def stress_section(curves: Sequence[StressCurve], *, notes: Sequence[str] = ()) -> Section:
    """The table, and a picture per shift."""
    section = Section("Under another scanner")
    for note in notes:
        section.text(note)
    section.table(HEADER, rows(curves))
    for curve in curves:
        means = [curve.mean(number) for number in range(len(curve.strengths))]
        lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
            "mean": (curve.strengths, [one.mean for one in means]),
            "95 % interval, low": (curve.strengths, [one.low for one in means]),
            "95 % interval, high": (curve.strengths, [one.high for one in means]),
        }
        picture = charts.curves(lines, x_label=f"{curve.what}: {curve.unit}", y_label="Dice")
        section.figure(picture, f"{curve.name}: {curve.what}")
    return section.folded_text(
        "What these words mean",
        [
            "Dice: mean over labels of a case, then over cases; a label that neither map holds is in no mean.",
            "change: the same cases, shifted minus untouched, with the bootstrap interval over cases.",
            f"falls by {FALL} at: on a straight line between the strengths tried.",
            "The shifts are made on the scan's own grid before preprocessing, from a seed per case.",
        ],
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
