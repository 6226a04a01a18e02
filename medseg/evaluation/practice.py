"""The practice card: what was done for a result, and what was not.

A survey of 80 challenges found that a third of their participants cross-validated and half ensembled; a reader of a
result cannot tell unless it is written down. Each row is a plain statement; nothing done is also a statement.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class PracticeCard:
    """What was and was not done; None means that nobody recorded it.

    Args:
        cases: cases that took part.
        folds_planned, folds_trained: folds of the plan, folds that have weights.
        ensemble: what was averaged ("folds 0 to 4"), or "" for a single network.
        postprocessing: label -> steps; empty when none was chosen.
        postprocessing_chosen_on: what the choice was made on, such as "cross-validation".
        mirroring: axes mirrored at prediction, () for none.
        leakage_checks: what was compared and came out clean.
        seeds: seeds of the trainings.
        checkpoint: which weights were taken ("last", "best on validation").
        test_set: whether cases outside of all folds were scored, in words.
        notes: anything else that a reader must know.
    """

    cases: int | None = None
    folds_planned: int | None = None
    folds_trained: int | None = None
    ensemble: str | None = None
    postprocessing: dict[str, list[str]] | None = None
    postprocessing_chosen_on: str = "cross-validation"
    mirroring: tuple[int, ...] | None = None
    leakage_checks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    checkpoint: str | None = None
    test_set: str | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dictionary for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, bool | None, str]]:
        """(practice, done or not or unknown, statement) in reading order."""
        return [
            self._cross_validation(),
            ("Ensembling", None, UNKNOWN)
            if self.ensemble is None
            else ("Ensembling", bool(self.ensemble), self.ensemble or "a single network"),
            self._postprocessing(),
            self._listed("Mirroring at prediction", self.mirroring, "axes {}", "none"),
            self._listed("Leakage checks", self.leakage_checks, "{}", "none made"),
            self._listed("Seeds", self.seeds, "{}", "not fixed"),
            ("Weights", self.checkpoint is not None or None, self.checkpoint or UNKNOWN),
            ("Test set", bool(self.test_set) if self.test_set is not None else None, self._test_set()),
            *(("Note", None, note) for note in self.notes),
        ]

    def _cross_validation(self) -> tuple[str, bool | None, str]:
        if self.folds_planned is None or self.folds_trained is None:
            return "Cross-validation", None, UNKNOWN
        cases = f" over {self.cases} cases" if self.cases else ""
        complete = self.folds_trained == self.folds_planned > 1
        return "Cross-validation", complete, f"{self.folds_trained} of {self.folds_planned} folds trained{cases}"

    def _postprocessing(self) -> tuple[str, bool | None, str]:
        if self.postprocessing is None:
            return "Post-processing", None, UNKNOWN
        steps = "; ".join(f"{label}: {', '.join(names)}" for label, names in self.postprocessing.items() if names)
        text = f"{steps} (chosen on {self.postprocessing_chosen_on})" if steps else "none improved the result"
        return "Post-processing", bool(steps), text

    @staticmethod
    def _listed(name: str, values: tuple[Any, ...] | None, text: str, without: str) -> tuple[str, bool | None, str]:
        if values is None:
            return name, None, UNKNOWN
        return name, bool(values), text.format(", ".join(str(value) for value in values)) if values else without

    def _test_set(self) -> str:
        if self.test_set is None:
            return UNKNOWN
        return self.test_set or "none: all scores are from cross-validation, whose cases also decided settings"
