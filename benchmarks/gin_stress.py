"""Does `gin` make a hippocampus model indifferent to another scanner? Two trainings that differ in it, then `medseg stress`.

    python benchmarks/gin_stress.py --data hippocampus [--crops 2800] [--work runs/gin]

Both arms are the plan of `medseg plan` with the `mambavision` nano network, fold 0, the same number of crops on one core: `plan`
as planned, `gin` with half of its crops sent through random shallow convolutions too. Scored are the fold's validation
cases, untouched and under inverted contrast, gamma and a bias field. A finished training or stress is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contest import RESULTS, machine

from medseg.evaluation.digits import text_table
from medseg.evaluation.statistics import paired_difference

RESULT = RESULTS / "gin_stress.json"
STEPS_PER_EPOCH, BATCH = 25, 4
ARMS = {"plan": (), "gin": ('train::dataset::augmentation={"preset":"light","gin":0.5}',)}
SHIFTS = ("gamma", "contrast", "bias_field")


def medseg(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "medseg", *words], check=True)


def run_arm(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plan, train and stress one arm; returns the curves."""
    bundle, out = arguments.work / f"hippocampus_{name}", arguments.work / f"stress_{name}"
    if not (bundle / "plan.json").is_file():
        medseg("plan", "--data", str(arguments.data), "--output", str(bundle), "--preset", "mambavision", "--quiet")
    epochs = max(1, arguments.crops // (BATCH * STEPS_PER_EPOCH))
    length = (f"max_epochs={epochs}", f"steps_per_epoch={STEPS_PER_EPOCH}", f"batch_size={BATCH}")
    start = time.perf_counter()
    if not (bundle / "models" / "model.pt").is_file():
        medseg("fit", str(bundle), "--fold", "0", "--threads", "1", "--resume", "--quiet", *length, *ARMS[name])
    minutes = (time.perf_counter() - start) / 60
    if not (out / "stress.json").is_file():
        words = ("--shifts", *SHIFTS, "--threads", "1", "--output", str(out), "--quiet")
        medseg("stress", str(bundle), "--data", str(arguments.data), *words)
    return {
        "crops": epochs * STEPS_PER_EPOCH * BATCH,
        "minutes": minutes,
        **json.loads((out / "stress.json").read_text()),
    }


def table(arms: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Mean Dice of both arms at each strength, and the paired difference."""
    rows = []
    for plan, gin in zip(arms["plan"]["curves"], arms["gin"]["curves"], strict=True):
        for number, strength in enumerate(plan["strengths"]):
            if number == 0 and rows:
                continue
            scores = [[float("nan") if v is None else v for v in curve["dice"][number]] for curve in (gin, plan)]
            gain = paired_difference(*scores)
            shift = "untouched" if number == 0 else f"{plan['shift']}, {strength:g} {plan['unit']}"
            means = [f"{curve['mean_dice'][number]:.3f}" for curve in (plan, gin)]
            rows.append([shift, *means, f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the hippocampus data set")
    parser.add_argument("--crops", type=int, default=2800)
    parser.add_argument("--work", type=Path, default=Path("runs/gin"))
    arguments = parser.parse_args()
    arms = {name: run_arm(name, arguments) for name in ARMS}
    words = {
        "command": " ".join(["python", "benchmarks/gin_stress.py", "--data", "DIR", "--crops", str(arguments.crops)])
    }
    RESULT.write_text(json.dumps({**words, "machine": machine(), "arms": arms}, indent=1) + "\n")
    print(text_table(["images", "as planned", "with gin", "gain (95 % interval)"], table(arms)))


if __name__ == "__main__":
    main()
