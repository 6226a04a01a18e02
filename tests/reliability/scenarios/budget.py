"""`medseg fit --budget` ends within 10 % of its budget: whole commands, timed from their start to their end.

The network, the crops and the volumes are tiny, so that a step takes milliseconds and the length has to be found by timing; each
round has another budget and another interval between validations.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from .base import Child, Outcome, make_data, make_planned

BUDGETS_S = (60, 75, 90)
KEPT = 0.1


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome, source = Outcome(), random.Random(seed)
    pristine = make_planned(folder / "pristine", make_data(folder / "data"))
    shares = []
    for number in range(times):
        bundle = folder / f"trial_{number}"
        shutil.copytree(pristine, bundle)
        budget, interval = BUDGETS_S[number % len(BUDGETS_S)], source.choice((1, 5, 10))
        words = ["fit", str(bundle), "--budget", f"{budget}s", f"val_interval={interval}", "steps_per_epoch=20"]
        child = Child([*words, "num_workers=0", "train::trainer::tracking=false"], folder / "log").wait(4 * budget)
        outcome.expect(child.code == 0, f"{budget} s: ended with {child.code}: {child.text[-600:]}")
        share = child.seconds / budget
        shares.append(share)
        facts = json.loads((bundle / "runs" / "fold_0" / "budget.json").read_text(encoding="utf-8"))
        outcome.expect(
            abs(share - 1) <= KEPT, f"took {child.seconds:.1f} s of {budget} s, with {facts}: {child.text[-400:]}"
        )
        outcome.count("trainings with a budget")
        outcome.count("changed their length on the way", child.text.count("so epochs: ") > 1)
    outcome.counts["shortest, share of the budget"] = round(min(shares), 3)
    outcome.counts["longest, share of the budget"] = round(max(shares), 3)
    return outcome
