"""How long a verb takes to start: user CPU seconds of cold processes, beside `python -c "import torch"` in the same run.

    python benchmarks/start.py --output benchmarks/results/start-cpu-DATE.json

Rounds alternate between the commands, and the least of each counts: other programs only ever add. The load of the machine
is written down; figures are worth keeping where it was below one half.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.bundle.catalogue import packaged_folder

BUNDLE = str(packaged_folder("bundles") / "hippocampus_mr_mambavision")
IMPORTS = (
    "import medseg.cli.main, medseg.cli.predict, medseg.commands.predict, medseg.bundle.predictor, "
    "medseg.evaluation.report.slices"
)
MEDSEG = [sys.executable, "-m", "medseg"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "imports of predict": [sys.executable, "-c", IMPORTS],
    "predict of a 35x50x35 crop": [*MEDSEG, "predict", BUNDLE, "crop.nii.gz", "-o", "out", "--device", "cpu"],
    "evaluate of two small files": [
        *MEDSEG, "evaluate", "--prediction", "data/labels", "--reference", "data/labels", "--cases", "c0", "c1",
    ],
    "plan of ten small cases": [*MEDSEG, "plan", "--data", "data", "--output", "ROUND", "--device", "cpu"],
    "--help": [*MEDSEG, "--help"],
}  # fmt: skip


def write_inputs(folder: Path) -> None:
    """A crop of hippocampus size, and ten small cases with labels."""
    generator = np.random.default_rng(0)
    crop = generator.normal(300, 50, (35, 50, 35)).astype(np.int16)
    nib.save(nib.Nifti1Image(crop, np.eye(4)), folder / "crop.nii.gz")
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    for i in range(10):
        label = np.zeros((24, 28, 20), np.uint8)
        label[6:14, 8:18, 5:12], label[14:18, 8:18, 5:12] = 1, 2
        image = (generator.normal(300, 50, label.shape) + 80 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "data" / "images" / f"c{i}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "data" / "labels" / f"c{i}.nii.gz")


def user_seconds(command: list[str], folder: Path, *, turn: int) -> float:
    """User CPU seconds of a process and its children; raises where it fails."""
    words = [f"bundle_{turn}" if word == "ROUND" else word for word in command]
    before = os.times().children_user
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)}: {ended.stderr[-400:]}")
    return os.times().children_user - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        write_inputs(Path(place))
        for turn in range(arguments.rounds + 1):
            for name, command in COMMANDS.items():
                measured = user_seconds(command, Path(place), turn=turn)
                if turn:  # the first round warms the disk and compiles what is compiled once
                    seconds[name].append(round(measured, 2))
    torch_alone = min(seconds["import torch"])
    rows = [
        {"what": name, "user_s": min(found), "beyond_torch_s": round(min(found) - torch_alone, 2), "rounds": found}
        for name, found in seconds.items()
    ]
    for row in rows:
        print(f"{row['what']:32s} {row['user_s']:6.2f} s   torch {row['beyond_torch_s']:+.2f} s")
    facts = {"cores": os.cpu_count(), "load_before": round(load, 2), "quiet": load < 0.5, "rows": rows}
    print(f"load before: {load:.2f}" + ("" if load < 0.5 else ": the machine was not quiet"))
    if arguments.output:
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
