"""A comparison as a section of a report, and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.evaluation.digits import difference, two_digits
from medseg.evaluation.report import charts
from medseg.evaluation.report.page import Section
from medseg.evaluation.scores import heading

from .comparison import Comparison, Pairing

HEADER = (
    "first - second",
    "label",
    "score",
    "means",
    "difference (95 % interval)",
    "p",
    "wrong if called",
    "could show",
    "better",
)
WORDS = (
    "difference: mean over cases of first minus second, with the bootstrap interval over cases.",
    "p: permutation test that flips the sign of pairs, after Holm's correction.",
    "wrong if called: the chance that the leader is not the better one (tail of the paired t distribution, flat prior).",
    "could show: the true difference that as many cases with this spread find four times in five.",
    "better: named only where the corrected p is at most 0.05 and the interval lies on one side of 0.",
)


def rows(pairings: Sequence[Pairing]) -> list[list[str]]:
    """The cells below `HEADER`."""
    return [
        [
            f"{pairing.first} - {pairing.second}", pairing.label, heading(pairing.metric),
            " / ".join(map(two_digits, pairing.means)), difference(pairing.difference, pairing.low, pairing.high),
            _chance(pairing.adjusted_p), _chance(pairing.chance_wrong), _small(pairing.detectable),
            pairing.verdict or ("not told" if math.isnan(pairing.p) else "no difference shown"),
        ]
        for pairing in pairings
    ]  # fmt: skip


def comparison_section(comparison: Comparison, *, title: str = "Comparison") -> Section:
    """Primary comparison with its picture, the others folded, and what the words mean."""
    section = Section(title)
    for caution in comparison.cautions:
        section.text(caution)
    section.table(HEADER, rows(comparison.primary))
    shown = {f"{p.first} - {p.second}": (p.difference, p.low, p.high) for p in comparison.primary if p.cases}
    if shown:
        metric = heading(comparison.primary[0].metric)
        section.figure(charts.differences(shown, x_label=f"difference of {metric}"), "Differences with their intervals")
    if comparison.secondary:
        words = f"{len(comparison.secondary)} further comparisons, per label and score, corrected among themselves"
        section.folded(words, HEADER, rows(comparison.secondary))
    return section.folded_text("What these words mean", WORDS)


def _chance(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _small(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"
