"""What split training leaks and what it brings, on eleven sarcoma patients with CT | MR | PET and labels: one row at a time.

    python benchmarks/collaboration.py --data sarcoma_ct_mr_pet --list        the rows, and which are there
    python benchmarks/collaboration.py --data sarcoma_ct_mr_pet               all that are missing (hours on one core)
    python benchmarks/collaboration.py --data sarcoma_ct_mr_pet --only attack level-0
    python benchmarks/collaboration.py --table                                docs/collaboration.md's tables

Rows, each written when it is done and kept afterwards:
`dice ARM FOLD`: Dice of each unseen patient after a training of that arm (5 folds).
`attack ARM SITE LEVEL`: what a network that was trained on the known patients of fold 0 rebuilds of the unseen ones' images;
mean of three seeds of the attack.

The secret seed of a site's noise is drawn anew by each training, so that rows with a defence do not repeat to the last digit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from collaboration_arms import Arm, dice_of_arm, leaks_of, planned
from collaboration_table import tables
from prediction_rows import Rows

from medseg.collaboration.cut import Defence
from medseg.collaboration.leakage import Attack

FOLDS, STEPS = 5, 300
ATTACK = Attack(steps=200, seeds=3, crops=4, repeats=16)
# noise: standard deviations of 0.2, 1 and 4 per value, after all that an item sends was scaled to a norm of at most 100,
# which is a third to a half of the norm that it has without
DEFENCES = {
    "dropout": Defence(dropout=0.5), "noise-0.2": Defence(clip=100.0, noise=0.002),
    "noise-1": Defence(clip=100.0, noise=0.01), "noise-4": Defence(clip=100.0, noise=0.04),
}  # fmt: skip
ARMS = {
    "alone": Arm(kind="alone"), "pooled": Arm(kind="pooled"),
    **{f"level-{finest}": Arm(finest) for finest in (0, 1, 2, 3, 4)},
    **{f"level-{finest}-{name}": Arm(finest, defence) for finest in (2, 3, 0, 1) for name, defence in DEFENCES.items()},
}  # fmt: skip
PAYS = ("alone", "level-2", "pooled")


def wanted() -> list[tuple[str, ...]]:
    """All rows, the most telling first: what MR leaks, what the arms bring, what CT leaks, then more folds."""
    arms = [name for name in ARMS if ARMS[name].kind == "split"]
    first = [
        "level-0",
        "level-2",
        "level-2-dropout",
        "level-2-noise-1",
        "level-1",
        "level-0-dropout",
        "level-0-noise-1",
    ]
    arms = [*first, *(name for name in arms if name not in first)]
    rows: list[tuple[str, ...]] = []
    for name in arms[:2]:
        rows += [("dice", name, "0"), ("attack", name, "mr", str(ARMS[name].finest))]
    rows += [("dice", name, "0") for name in PAYS]
    for name in arms[2:5]:
        rows += [("dice", name, "0"), ("attack", name, "mr", str(ARMS[name].finest))]
    rows += [("attack", name, "ct", str(ARMS[name].finest)) for name in arms[:5]]
    for name in arms[5:]:
        rows += [("dice", name, "0"), *(("attack", name, site, str(ARMS[name].finest)) for site in ("mr", "ct"))]
    rows += [("dice", name, str(fold)) for fold in range(FOLDS) for name in PAYS]
    rows += [("dice", name, str(fold)) for fold in range(1, FOLDS) for name in arms]
    return list(dict.fromkeys(rows))


def measure(row: tuple[str, ...], data: Path, work: Path) -> dict[str, Any]:
    """The facts of one row; trained bundles of fold 0 stay in `work`, for the attacks."""
    name, began = row[1], time.process_time()
    arm, fold = ARMS[name], int(row[2]) if row[0] == "dice" else 0
    bundle = work / f"{name}-fold{fold}"
    trained = (bundle / "trained.json").is_file()
    if row[0] == "dice" or not trained:
        if not bundle.exists():
            planned(data, bundle, arm, folds=FOLDS, steps=STEPS)
        scores = dice_of_arm(bundle, arm, fold)
        (bundle / "trained.json").write_text(json.dumps(scores), encoding="utf-8")
    facts: dict[str, Any] = {"defence": arm.defence.words(), "finest": arm.finest}
    if row[0] == "dice":
        return facts | {"dice": scores, "steps": STEPS, "cpu_seconds": round(time.process_time() - began)}
    found = leaks_of(bundle, row[2], int(row[3]), ATTACK)
    return facts | found[0] | {"cpu_seconds": round(time.process_time() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder per patient with CT, MR_T1 and PET")
    parser.add_argument("--work", type=Path, default=Path("runs/collaboration"), help="where trained bundles stay")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows that have all these words")
    parser.add_argument("--list", action="store_true", help="the rows, and which are there")
    parser.add_argument("--table", action="store_true", help="print the tables")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows("collaboration", again=arguments.again, parts=("benchmarks/collaboration_arms",))
    if arguments.table:
        print(tables(rows.rows))
        return
    for row in wanted():
        key = " ".join(row)
        if not set(arguments.only) <= set(row):
            continue
        if arguments.list:
            print("there  " if key in rows.rows else "missing", key)
        elif not rows.has(key):
            if arguments.data is None:
                sys.exit("--data names no folder")
            arguments.work.mkdir(parents=True, exist_ok=True)
            rows.put(key, measure(row, arguments.data, arguments.work))


if __name__ == "__main__":
    main()
