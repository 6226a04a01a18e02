"""Train nano presets and their ablations on hippocampus fold 0, row by row, and write one table.

    python benchmarks/hippocampus_presets.py --data hippocampus [--work runs/presets] [--samples 2800] [--threads 2] [ROW ...]

A row is a preset, or `preset:identity` for the same network with every token mixer replaced by `identity`. Each row runs the
four commands a user would run (plan, fit, predict on the fold's validation images, evaluate) and is written to
benchmarks/results/hippocampus_presets.json and docs/hippocampus.md as soon as it is finished; a second run continues with the
first missing row.
All rows share patch, batch, optimiser and augmentation. Length is counted in samples, so that other work on the machine changes
the seconds of a row and nothing else; `--budget 10m` gives every row the same seconds instead.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contest import RESULTS, machine, run_medseg
from hippocampus_table import case_dice
from hippocampus_table import main as write_page

ROWS = (
    *("fastervit", "gated_deltanet_h1", "segmamba", "resenc_unet", "mambavision"),
    *("mambavision:identity", "segmamba:identity", "fastervit:identity", "gated_deltanet_h1:identity"),
    *("gcvit", "mamba2_hybrid", "vir", "xlstm_unet", "mednext", "umamba_enc", "pctnet"),
    *("gcvit:identity", "mamba2_hybrid:identity", "vir:identity", "xlstm_unet:identity"),
)
RESULT = RESULTS / "hippocampus_presets.json"


class Row:
    """The four commands of one row, in a folder of its own."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.preset, _, self.mixer = name.partition(":")
        self.folder = Path(arguments.work).resolve() / name.replace(":", "_")
        self.data = Path(arguments.data).resolve()
        self.budget, self.samples, self.threads = arguments.budget, arguments.samples, str(arguments.threads)
        self.environment = {**os.environ, "MEDSEG_STORE": str(self.folder.parent / "store")}
        self.bundle = f"hippocampus_mr_{self.folder.name}"

    def medseg(self, *words: str) -> dict[str, float]:
        """Run one command; returns its wall seconds and peak resident memory in MB (of it and its workers, the largest)."""
        begin = time.monotonic()
        usage = run_medseg(words, self.folder, self.environment, self.name)
        return {"seconds": round(time.monotonic() - begin, 1), "peak_mb": round(usage.ru_maxrss / 1024)}

    def run(self) -> dict[str, Any]:
        """Plan, fit, predict, evaluate; returns the row of the table."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "images").mkdir(parents=True)
        for case in json.loads((self.data / "splits_final.json").read_text(encoding="utf-8"))[0]["val"]:
            (self.folder / "images" / f"{case}.nii.gz").symlink_to(self.data / "imagesTr" / f"{case}.nii.gz")
        change = [f"network_def::mixer={self.mixer}"] if self.mixer else []
        threads = ["--threads", self.threads]
        plan = self.medseg("plan", "--data", str(self.data), "--output", self.bundle, "--preset", self.preset)
        cost = {
            "plan": plan,
            "fit": self.medseg("fit", self.bundle, "--fold", "0", *threads, *self.length(), *change),
            "predict": self.medseg("predict", self.bundle, "-i", "images", "-o", "labels", "--no-preview", *threads),
            "evaluate": self.medseg(
                *("evaluate", "--prediction", "labels", "--reference", str(self.data / "labelsTr")),
                *("--labels", self.bundle, "--cases", "predicted", "--output", "eval"),
            ),
        }
        return self.table_row(cost)

    def length(self) -> list[str]:
        """Words of `medseg fit` for the length of the training: whole epochs of the plan that hold the samples, or a time."""
        if self.budget:
            return ["--budget", self.budget]
        train = json.loads((self.folder / self.bundle / "configs/train.json").read_text(encoding="utf-8"))
        return [f"max_epochs={math.ceil(self.samples / (train['steps_per_epoch'] * train['batch_size']))}"]

    def table_row(self, cost: dict[str, dict[str, float]]) -> dict[str, Any]:
        """Dice, size, samples and cost, read from what the commands left behind."""
        summary = json.loads((self.folder / "eval/evaluation.json").read_text(encoding="utf-8"))["summary"]
        run = self.folder / self.bundle / "runs/fold_0"
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        plan = json.loads((self.folder / self.bundle / "plan.json").read_text(encoding="utf-8"))
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        dice = {label: figures["dice"] for label, figures in summary.items()}
        return {
            "row": self.name,
            "mean_dice": round(dice.pop("mean over labels")["mean"], 4),
            "dice": {
                label: {key: round(figure[key], 4) for key in ("mean", "low", "high")} for label, figure in dice.items()
            },
            "case_dice": case_dice(self.folder / "eval/evaluation.json"),
            "parameters": count_parameters(self.folder / self.bundle / "models/model.pt"),
            "steps": result["steps"],
            "samples": result["steps"] * plan["batch_size"],
            "fit_seconds": result["seconds"],
            "wall_seconds": round(sum(part["seconds"] for part in cost.values()), 1),
            "fit_peak_mb": cost["fit"]["peak_mb"],
            "commit": manifest.get("commit"),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "threads": int(self.threads),
            "budget": self.budget or f"{self.samples} samples",
            "val_curve": json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            if (run / "metrics.json").is_file()
            else None,
        }


def count_parameters(weights: Path) -> int:
    """Numbers in a state dict, buffers included."""
    import torch

    return sum(value.numel() for value in torch.load(weights, map_location="cpu", weights_only=True).values())


def main() -> int:
    """Run the rows that the result file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: {' '.join(ROWS)}")
    parser.add_argument("--data", default=os.path.join(os.environ.get("MEDSEG_DATA", "."), "hippocampus"))
    parser.add_argument("--work", default="runs/presets", help="folder for the bundles, predictions and scores")
    parser.add_argument("--samples", type=int, default=2800, help="crops that each training sees")
    parser.add_argument("--budget", help="time of each training, in place of --samples (10m)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    table = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
    for name in arguments.rows or ROWS:
        if any(row["row"] == name for row in table["rows"]):
            continue
        row = Row(name, arguments).run()
        table = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
        table["rows"].append(row)
        table["machine"] = machine()
        table["command"] = "python benchmarks/hippocampus_presets.py"
        RESULT.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        write_page()
        print(f"{name:<28}{row['mean_dice']:.4f}{row['steps']:>7} steps{row['wall_seconds']:>7.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
