"""Every verb starts, and the three that people run most work, where Python has no POSIX modules, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

CODE = """
import importlib, sys
import filelock, psutil  # both have other code on Windows
POSIX = ("fcntl", "resource", "pwd", "grp", "termios")
for name in POSIX:
    sys.modules[name] = None
from medseg.cli.main import VERBS, main
for verb in VERBS:
    importlib.import_module(f"medseg.cli.{verb}")
for name in ("contained", "cv", "export", "fit", "install", "pack", "plan", "predict", "segment"):
    importlib.import_module(f"medseg.commands.{name}")
for name in ("planning.memory", "bundle.opening.confine", "interruption", "io.atomic", "bundle.checks.verify"):
    importlib.import_module(f"medseg.{name}")
assert main(["plan", "--data", "data", "--output", "bundle", "--folds", "2"]) == 0
assert main(["predict", "hippocampus_mr_mambavision", "data/images/c0.nii.gz", "-o", "out", "--quiet"]) == 0
assert main(["evaluate", "--prediction", "data/labels", "--reference", "data"]) == 0
assert main(["doctor"]) == 0
print("all ran")
"""


def test_every_verb_imports_and_plan_predict_evaluate_run_without_posix_modules(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for i in range(2):
            array = np.zeros((16, 18, 14), np.uint8 if part == "labels" else np.float32)
            array[4:9, 4:10, 3:8] = 1
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "data" / part / f"c{i}.nii.gz")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDSEG_FOREIGN": "inside", "USERNAME": "who"}
    ended = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    assert ended.stdout.endswith("all ran\n"), ended.stderr[-1500:]
