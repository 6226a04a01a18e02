"""What cross-validation found as tables: the same rows in the report and on the screen."""

from __future__ import annotations

from medseg.evaluation.digits import difference, interval
from medseg.evaluation.result import MEAN
from medseg.transforms.postprocessing import describe

from .cv import CrossValidation

Table = tuple[list[str], list[list[str]]]


def candidates(result: CrossValidation) -> Table:
    """Every candidate with its mean Dice, before post-processing."""
    rows = []
    for name, evaluation in result.evaluations.items():
        summary = evaluation.summary()
        dice = summary.get(MEAN, next(iter(summary.values())))["dice"]
        folds = ", ".join(map(str, result.folds[name]))
        rows.append([name, folds, str(dice.count), interval(dice.mean, dice.low, dice.high)])
    return ["candidate", "folds", "cases", "mean Dice (95 % interval)"], rows


def comparisons(result: CrossValidation, *, every_label: bool = True) -> Table:
    """The candidates against each other, pair by pair, per label or for the mean over labels alone."""
    rows = []
    for entry in result.comparisons:
        found = entry.difference
        if every_label or entry.label == MEAN:
            pair = f"{entry.first} - {entry.second}"
            words = difference(found.mean, found.low, found.high)
            rows.append([pair, entry.label, words, f"{found.better} / {found.worse}", f"{entry.adjusted_p:.2g}"])
    header = ["first - second", "label", "difference of Dice (95 % interval)"]
    return [*header, "better / worse", "p (signed-rank, Holm-adjusted)"], rows


def tried(result: CrossValidation) -> Table:
    """Every post-processing step that was tried, and which were kept."""
    rows = []
    for trial in result.selection.trials:
        found = trial.difference
        kept = trial.kept and trial.step in result.selection.steps
        words = difference(found.mean, found.low, found.high)
        rows.append([trial.label, describe(trial.step), words, "kept" if kept else ""])
    return ["label", "step", "change of Dice (95 % interval)", ""], rows
