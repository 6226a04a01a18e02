"""From a time budget to the length of a training: steps, epochs, how often each case is seen; and what follows from it.

Only rules that measured rows support change a value (docs/recipe.md has the rows); what was not reached there stays an option.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .plan import Plan

# A step is timed by `medseg.planning.memory`: forward, backward and optimizer; crops, validation and writing take the rest.
SHARE_OF_STEPS = 0.8
# nnU-Net trains for 1000 epochs of 250 steps; no rule here looks beyond four times that.
LEAST_STEPS, MOST_STEPS = 1, 1_000_000
# An epoch ends with a checkpoint and a row of the curve: at least this many, and not so many that their files are the work.
LEAST_EPOCHS, MOST_EPOCHS = 8, 1000
VALIDATIONS = 4  # in all, at least
# From so many crops of each training case on, a training says that the validation curve should be looked at: hippocampus
# (166 cases) passed its best before it, see docs/recipe.md.
MANY_VISITS = 40


@dataclass(frozen=True)
class PlannedLength:
    """How long a training will be.

    Args:
        budget_s: seconds that a person gives it.
        step_s: of a training step, as timed here.
        batch_size: crops of a step.
        cases: for training, the fewest of any fold.
    """

    budget_s: float
    step_s: float
    batch_size: int
    cases: int

    @property
    def steps(self) -> int:
        """Steps that fit, within bounds."""
        wanted = SHARE_OF_STEPS * self.budget_s / max(self.step_s, 1e-6)
        return round(min(max(wanted, LEAST_STEPS), MOST_STEPS))

    @property
    def visits(self) -> float:
        """Crops that each training case gives in all."""
        return self.steps * self.batch_size / max(1, self.cases)

    def epochs(self, planned: int) -> dict[str, int]:
        """Steps as epochs: of the planned number of steps, but neither too few of them nor too many.

        Args:
            planned: steps of an epoch without a budget.
        """
        each = min(max(1, planned), max(1, self.steps // LEAST_EPOCHS))
        each = max(each, -(-self.steps // MOST_EPOCHS))
        count = max(1, self.steps // each)
        return {"max_epochs": count, "steps_per_epoch": each, "val_interval": max(1, min(10, count // VALIDATIONS))}

    def explain(self) -> str:
        """The length in words."""
        return (
            f"{in_words(self.budget_s)} of --budget hold about {self.steps} steps of {self.step_s:.2g} s, as timed on this "
            f"machine, in which each of {self.cases} training cases gives {self.visits:.3g} crops; `medseg fit` times itself "
            "again and keeps to the budget"
        )

    def warnings(self) -> list[str]:
        """What a person should think of before so short, or so long, a training."""
        if self.visits < 1:
            return [
                f"{in_words(self.budget_s)} are {self.steps} steps: fewer crops than training cases, some of which are never seen"
            ]
        if self.visits > MANY_VISITS:
            return [
                f"{in_words(self.budget_s)} show each training case {self.visits:.0f} times: look at the validation curve for "
                "overfitting; augmentation::preset=default varies crops more than light (docs/recipe.md)"
            ]
        return []


def with_budget(plan: Plan, budget_s: float, step_s: float | None) -> Plan:
    """The plan with the length that a budget gives; optimizer, rates, averages and augmentation stay what they were.

    Args:
        plan: made without a budget.
        budget_s: seconds for each fold.
        step_s: of a training step, as timed; None where none could be: then `fit` finds the length alone.
    """
    optimization, reasons = {**plan.optimization, "budget_s": budget_s}, dict(plan.reasons)
    if step_s is None:
        reasons["optimization"] = (
            f"{reasons['optimization']}; no step could be timed here, so `medseg fit` finds out how many {in_words(budget_s)} of "
            "--budget hold"
        )
        return replace(plan, optimization=optimization, reasons=reasons)
    cases = min((len(split["train"]) for split in plan.splits), default=1)
    length = PlannedLength(budget_s, step_s, plan.batch_size, cases)
    why = reasons["optimization"].partition(";")[0]
    reasons["optimization"] = f"{why}; {length.explain()}"
    return replace(
        plan,
        optimization=optimization | length.epochs(int(optimization["steps_per_epoch"])),
        reasons=reasons,
        warnings=[*plan.warnings, *length.warnings()],
    )


def in_words(seconds: float) -> str:
    """A time as a person says it.

    Example:
        >>> in_words(2400), in_words(45), in_words(604800)
        ('40 minutes', '45 seconds', '7 days')
    """
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size or (size == 60 and seconds >= size):
            return f"{seconds / size:.3g} {unit if seconds != size else unit[:-1]}"
    return f"{seconds:.3g} seconds"
