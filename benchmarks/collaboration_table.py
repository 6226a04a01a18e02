"""Rows of benchmarks/collaboration.py as the tables of docs/collaboration.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.evaluation.statistics import mean_interval, paired_difference

Rows = Mapping[str, Mapping[str, Any]]


def scores_of(rows: Rows, arm: str) -> dict[str, float]:
    """Unseen patient -> Dice, over all folds that were measured."""
    found: dict[str, float] = {}
    for key, row in rows.items():
        if key.startswith("dice ") and key.split()[1] == arm:
            found |= row["dice"]
    return found


def interval(values: list[float]) -> str:
    """Mean, 95 % interval and number."""
    if not values:
        return "not measured"
    mean = mean_interval(values, bounds=(0.0, 1.0))
    return f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}; {mean.count})"


def tables(rows: Rows) -> str:
    """Both tables as Markdown."""
    return f"{_leaks(rows)}\n\n{_pays(rows)}"


def _leaks(rows: Rows) -> str:
    lines = [
        "| site | finest level sent | defence | correlation (each seed) | SSIM | SSIM above mean image | correlation, 16 repeats | "
        "Dice (95 % interval; patients) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        if key.startswith("attack "):
            seeds = ", ".join(f"{value:.2f}" for value in row["by_seed"])
            dice = interval(list(scores_of(rows, key.split()[1]).values()))
            lines.append(
                f"| {row['site']} | {row['finest']} | {row['defence']} | {row['correlation']:.2f} ({seeds}) | {row['ssim']:.2f} | "
                f"{row['above_mean']:+.2f} | {row['repeated']:.2f} | {dice} |"
            )
    return "\n".join(lines)


def _pays(rows: Rows) -> str:
    arms = {
        name: scores_of(rows, arm) for name, arm in (("alone", "alone"), ("split", "level-2"), ("pooled", "pooled"))
    }
    shared = sorted(set.intersection(*(set(found) for found in arms.values())))
    lines = ["| arm | Dice (95 % interval; patients) |", "|---|---|"]
    lines += [f"| {name} | {interval([found[p] for p in shared])} |" for name, found in arms.items()]
    for a, b in (("split", "alone"), ("pooled", "split"), ("pooled", "alone")):
        if len(shared) > 1:
            pair = paired_difference([arms[a][p] for p in shared], [arms[b][p] for p in shared])
            told = f"{pair.low:+.3f} to {pair.high:+.3f}; better in {pair.better}, worse in {pair.worse}"
            lines.append(f"| {a} - {b} | {pair.mean:+.3f} ({told}) |")
    return "\n".join(lines)
