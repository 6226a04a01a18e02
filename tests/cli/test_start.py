"""What the start of a verb imports: `python -X importtime` against lists of packages that must not appear."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.bundle.catalogue import packaged_folder
from medseg.bundle.write import write_bundle
from tests.bundle.samples import QUICK, make_plan

HEAVY = ("torch", "numpy", "scipy")
TRAINS = ("monai", "mlflow", "ignite", "pytorch_lightning", "lightning", "torchmetrics", "tensorboard")
COMPILES = ("torch._dynamo", "torch._inductor", "triton", "sympy", "torch.distributed.fsdp")
TABLES = ("pandas", "sklearn", "scipy.signal", "scipy.stats")
READERS = ("nibabel", "SimpleITK", "pydicom", "highdicom")
DRAWS = ("matplotlib",)
NOTHING_BUT_WORDS = (*HEAVY, *TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small cases in images/ + labels/, and one of their label maps as a file."""
    folder = tmp_path_factory.mktemp("start")
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    for i in range(10):
        label = np.zeros((16, 18, 14), np.uint8)
        label[4:9, 4:10, 3:8] = 1
        image = (generator.normal(100, 20, label.shape) + 60 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "data" / "images" / f"c{i}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "data" / "labels" / f"c{i}.nii.gz")
    names = [f"c{i}" for i in range(10)]
    small = make_plan(folder / "data", names, labels={0: "background", 1: "ball"})
    small.network["out_channels"] = 2
    write_bundle(folder / "tiny", small)
    return folder


# Exceptions, each with its reason. Lightning and torchmetrics import torch._dynamo, triton, sympy, matplotlib, scipy.signal and
# scipy.stats themselves, so a `fit` that trains is held to the rest; MLflow, which brings pandas, comes with tracking alone.
# `bundle verify` runs MONAI's run and MONAI's verify_metadata on the bundle: `import monai` is all of MONAI, ignite and MLflow.
TRAINS_HERE = ("monai", "mlflow", "ignite", "tensorboard", "pandas", "sklearn", *READERS)
BUNDLE = str(packaged_folder("bundles") / "hippocampus_mr_mambavision")
VERBS = {
    "--help": (["--help"], 0, NOTHING_BUT_WORDS),
    "--version": (["--version"], 0, NOTHING_BUT_WORDS),
    "predict": (
        ["predict", BUNDLE, "data/images/c0.nii.gz", "-o", "out", "--device", "cpu", "--engine", "eager"],
        0,
        (*TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS),
    ),
    "evaluate": (
        ["evaluate", "--prediction", "data/labels/c0.nii.gz", "--reference", "data/labels/c0.nii.gz"],
        0,
        ("torch", *TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS),
    ),
    "plan": (
        ["plan", "--data", "data", "--output", "bundle", "--device", "cpu"],
        0,
        (*TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS),
    ),
    "view": (
        ["view", "data/images/c0.nii.gz", "data/labels/c0.nii.gz", "--no-browser", "--port", "70000"],
        1,
        ("torch", *TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS),
    ),
    "cv": (["cv", BUNDLE, "--dry-run"], 1, (*TRAINS, *COMPILES, *READERS)),
    "fit": (["fit", BUNDLE, "no_such=1"], 1, (*TRAINS, *COMPILES, *TABLES, *READERS)),
    "fit that trains": (
        ["fit", "tiny", *QUICK, "dataset_dir=data"],
        0,
        TRAINS_HERE,
    ),
    "bundle verify": (["bundle", "verify", BUNDLE], 0, ("openvino", "onnx", "highdicom", "SimpleITK")),
    "networks": (["networks", "nosuch"], 1, (*TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS)),
    "bundle": (["bundle", "pack", BUNDLE, "--output", "packed.zip"], 0, (*TRAINS, *COMPILES, *READERS, *DRAWS)),
    "doctor": (["doctor"], 0, (*TRAINS, *COMPILES, *TABLES, *READERS, *DRAWS)),
    "demo": (["demo", "--help"], 0, NOTHING_BUT_WORDS),
}


def imported(words: list[str], folder: Path) -> tuple[set[str], int, str]:
    """Names of the modules that a verb imports in a process of its own, its exit code, its last words."""
    environment = {**os.environ, "MEDSEG_FOREIGN": "inside", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "importtime", "-m", "medseg", *words]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = ended.stderr.splitlines()
    names = {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}
    return names, ended.returncode, "\n".join(line for line in lines if not line.startswith("import time:"))[-600:]


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] * (verb == "bundle verify")) for verb in VERBS]
)
def test_a_verb_imports_nothing_that_it_does_not_need(verb: str, place: Path) -> None:
    words, code, forbidden = VERBS[verb]
    names, ended, said = imported(words, place)
    assert ended == code, said
    assert "medseg.cli.main" in names
    assert sorted(names & set(forbidden)) == []
