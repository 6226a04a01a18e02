"""What was learned of trust, as parts of a report: reliability diagram, risk over coverage, and the list for review."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.evaluation.report import charts
from medseg.evaluation.report.page import Section

from .case_trust import CaseTrust
from .risk_coverage import normalised_area, risk_coverage

PICTURES = 20  # of the list for review


def trust_section(trust: CaseTrust) -> Section:
    """How well the network knows what it does not know, from out-of-fold cases."""
    section = Section("Can its confidence be trusted?")
    for note in trust.notes:
        section.text(note, quiet=True)
    before, after = (trust.calibration.get(word) for word in ("before", "after"))
    if before is not None and after is not None:
        section.text(
            f"Calibration error {before:.3f}, after temperature {trust.temperature:.2f} {after:.3f} on cases that it was "
            "not learned on."
        )
        lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {"right": ([0.0, 1.0], [0.0, 1.0])}
        for word, key in (("without temperature", "bins"), ("with temperature", "bins_after")):
            bins = trust.calibration.get(key) or ()
            lines[word] = ([one[0] for one in bins], [one[1] for one in bins])
        section.figure(charts.curves(lines, x_label="confidence", y_label="share that is right"), "Reliability diagram")
    rows, curves = [], {}
    for label in trust.labels.values():
        risk = [1 - value for value in label.dice]
        area = normalised_area(label.expected, risk) if len(risk) > 1 else math.nan
        low = "" if label.dice_error is None else f"± {label.dice_error:.3f}"
        factor = "" if label.volume_factor is None else f"x or / {label.volume_factor:.2f}"
        rows.append([label.name, str(label.cases), low, factor, area, label.note])
        if len(risk) > 1:
            found = risk_coverage(label.expected, risk)
            curves[label.name] = ([(n + 1) / len(found) for n in range(len(found))], found.tolist())
    header = ["label", "cases", "90 % of Dice", "90 % of volume", "area (0 oracle, 1 chance)", ""]
    section.table(header, rows)
    if curves:
        picture = charts.curves(curves, x_label="coverage: share of cases, surest first", y_label="1 - Dice")
        section.figure(picture, "Risk over coverage: mean 1 - Dice of the cases that are expected to be best")
    return section


def review_section(cases: Mapping[str, Sequence[Mapping[str, Any]]], pictures: Mapping[str, Path]) -> Section | None:
    """Flagged cases, the lowest expected Dice first, with their pictures; None where no case was judged.

    Args:
        cases: name -> rows of its record's labels.
        pictures: name -> PNG of the case.
    """
    judged = {name: rows for name, rows in cases.items() if any("flag" in row for row in rows)}
    if not judged:
        return None
    flagged = {name: rows for name, rows in judged.items() if any(row.get("flag") == "review" for row in rows)}
    worst = sorted(flagged, key=lambda name: (_lowest(flagged[name]), name))
    section = Section("For review").text(f"{len(flagged)} of {len(judged)} cases are flagged; the worst first.")
    table = []
    for name in worst:
        for row in flagged[name]:
            if row.get("flag") == "review":
                table.append([name, row["name"], float(row.get("expected_dice", math.nan)), row["reason"]])
    if table:
        section.table(["case", "label", "expected Dice", "reason"], table)
    for name in worst[:PICTURES]:
        if name in pictures and pictures[name].is_file():
            data = base64.b64encode(pictures[name].read_bytes()).decode("ascii")
            section.figure(f"data:image/png;base64,{data}", name)
    return section


def _lowest(rows: Sequence[Mapping[str, Any]]) -> float:
    return min((float(row.get("expected_dice", 0.0)) for row in rows if row.get("flag") == "review"), default=1.0)
