"""Second and third real sets, to see that the pipeline is not tuned to one: plan, fit, predict, evaluate; nothing by hand.

    MEDSEG_DATA=DIR python benchmarks/more_datasets.py [--work runs/more] [--budget 15m] [--threads 2] [left_atrium sarcoma_ct]

left_atrium   80 MR volumes (NIfTI) of MEDSEG_DATA/left_atrium; trained on the first 64 of the published order (train.list),
              reported on the last 16.
sarcoma_ct    the CT of 10 patients of MEDSEG_DATA/sarcoma_ct_mr_pet; five folds, every patient is predicted by the fold that
              did not see it; the budget is for all folds together.

Each finished fold is kept: a second run continues where the first stopped. The table is written to
benchmarks/results/more_datasets.json after each set. Held-out labels are used by no choice: the last weights count, and the
plan asks only for shapes, spacings and, for CT, the intensities of labelled voxels of all cases (as nnU-Net's does).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contest import RESULTS, machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = RESULTS / "more_datasets.json"
HELD_OUT = 16  # of the left atrium set: a fifth


def left_atrium(source: Path, folder: Path) -> None:
    """Link the NIfTI volumes; the published order decides who is held out.

    Raises:
        SystemExit: train.list names a case that is not there.
    """
    place = source / "left_atrium"
    names = (place / "train.list").read_text(encoding="utf-8").split()
    for name in names:
        for part, kept in (("images", "imagesTr"), ("labels", "labelsTr")):
            volume, link = place / kept / f"{name}.nii.gz", folder / part / f"{name}.nii.gz"
            if not volume.is_file():
                raise SystemExit(f"{volume}: is missing, though train.list names it")
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(volume)
    described = {"name": "left atrium", "labels": {"background": 0, "left atrium": 1}, "channels": ["MRI"]}
    described["reference"] = "Xiong et al. 2020, A global benchmark of algorithms for segmenting the left atrium"
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    splits = [{"train": names[:-HELD_OUT], "val": names[-HELD_OUT:]}]
    (folder / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")


def sarcoma_ct(source: Path, folder: Path) -> None:
    """Link each patient's CT and mask under one name."""
    for patient in sorted((source / "sarcoma_ct_mr_pet").iterdir()):
        for part, file in (("images", "CT_image.nii.gz"), ("labels", "CT_mask.nii.gz")):
            link = folder / part / f"{patient.name}.nii.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(patient / file)
    described = {"name": "sarcoma CT", "labels": {"background": 0, "tumour": 1}, "channels": ["CT"]}
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


SETS = {"left_atrium": left_atrium, "sarcoma_ct": sarcoma_ct}


def seconds_of(text: str) -> float:
    """Seconds of `15m`, `2h`, `90s`."""
    return float(text.rstrip("smh")) * {"s": 1, "m": 60, "h": 3600}.get(text[-1], 1)


class Run:
    """One set, in a folder of its own."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name, self.threads = name, ["--threads", str(arguments.threads)]
        self.folder = Path(arguments.work).resolve() / name
        self.data, self.bundle = self.folder / "data", self.folder / f"{name}_bundle"
        self.preset, self.budget_s = arguments.preset, seconds_of(arguments.budget)
        # the commands of the checkout that this file lies in, whatever is installed
        paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "MEDSEG_STORE": str(self.folder / "store"), "PYTHONPATH": paths}

    def medseg(self, *words: str) -> dict[str, float]:
        """Run one command; returns wall seconds and peak resident memory of the process in MB."""
        import subprocess

        begin = time.monotonic()
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "medseg", *words], env=self.environment, stdout=log, stderr=log
            )
            _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{self.name}: medseg {words[0]} ended with {child.returncode}, see {self.folder}/log.txt")
        return {"seconds": round(time.monotonic() - begin, 1), "peak_mb": round(usage.ru_maxrss / 1024)}

    def run(self) -> dict[str, Any]:
        """Plan, then fit and predict fold by fold, then evaluate all predictions at once."""
        self.data.mkdir(parents=True, exist_ok=True)
        SETS[self.name](Path(os.environ["MEDSEG_DATA"]).resolve(), self.data)
        if not (self.bundle / "plan.json").is_file():
            self.medseg("plan", "--data", str(self.data), "--output", str(self.bundle), "--preset", self.preset)
        splits = json.loads((self.bundle / "configs/splits.json").read_text(encoding="utf-8"))
        folds = [self.fold(number, split["val"], self.budget_s / len(splits)) for number, split in enumerate(splits)]
        self.medseg(
            *("evaluate", "--prediction", str(self.folder / "labels"), "--reference", str(self.data / "labels")),
            *("--labels", str(self.bundle), "--cases", "predicted", "--output", str(self.folder / "eval")),
        )
        return self.row(folds)

    def fold(self, number: int, cases: list[str], budget_s: float) -> dict[str, Any]:
        """Train one fold and predict its held-out cases with its own weights."""
        done = self.folder / f"fold_{number}.json"
        if done.is_file():
            return dict(json.loads(done.read_text(encoding="utf-8")))
        words = ("--fold", str(number), "--budget", f"{budget_s:.0f}s", "--resume", *self.threads)
        cost = {"fit": self.medseg("fit", str(self.bundle), *words)}
        images = [str(self.data / "images" / f"{case}.nii.gz") for case in cases]
        output = ("-o", str(self.folder / "labels"), "--no-preview", *self.threads)
        cost["predict"] = self.medseg("predict", str(self.bundle), *images, *output)
        result = json.loads((self.bundle / f"runs/fold_{number}/result.json").read_text(encoding="utf-8"))
        facts = {
            "fold": number,
            "held_out": cases,
            "steps": result["steps"],
            "fit_seconds": result["seconds"],
            "cost": cost,
        }
        done.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        return facts

    def row(self, folds: list[dict[str, Any]]) -> dict[str, Any]:
        """What was planned, and what came out."""
        plan = json.loads((self.bundle / "plan.json").read_text(encoding="utf-8"))
        evaluation = json.loads((self.folder / "eval/evaluation.json").read_text(encoding="utf-8"))
        scores = {
            label: {metric: figures[metric] for metric in ("dice", "hd95_mm", "nsd") if metric in figures}
            for label, figures in evaluation["summary"].items()
        }
        chosen = ("spatial_dims", "spacing", "roi_size", "batch_size", "normalization", "augmentation", "reasons")
        return {
            "set": self.name,
            "preset": self.preset,
            "plan": {key: plan[key] for key in chosen},
            "scores": scores,
            "folds": folds,
            "budget_s": self.budget_s,
            "threads": int(self.threads[-1]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def main() -> int:
    """Run the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--work", default="runs/more", help="folder for data, bundles, predictions and scores")
    parser.add_argument("--budget", default="15m", help="training time of a set, all folds together")
    parser.add_argument("--preset", default="mambavision")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if "MEDSEG_DATA" not in os.environ:
        parser.error("set MEDSEG_DATA to the folder that holds left_atrium/ and sarcoma_ct_mr_pet/")
    for name in arguments.sets or SETS:
        if name not in SETS:
            parser.error(f"unknown set {name!r}; there are {', '.join(SETS)}")
        row = Run(name, arguments).run()
        table = json.loads(arguments.result.read_text(encoding="utf-8")) if arguments.result.is_file() else {"rows": []}
        table["rows"] = [other for other in table["rows"] if other["set"] != name] + [row]
        table |= {"machine": machine(), "command": "python benchmarks/more_datasets.py"}
        arguments.result.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        dice = {label: round(figures["dice"]["mean"], 4) for label, figures in row["scores"].items()}
        print(f"{name}: Dice {dice}, {sum(fold['steps'] for fold in row['folds'])} steps", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
