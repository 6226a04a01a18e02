"""Each fault that data may have is one line that names it, from `plan` and again from `fit`, before a step is trained.

A missing channel: test_missing_channels.py. A disk that fills: tests/reliability (full disks).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.io.volume import read_header, read_label, write_image, write_label
from tests.volumes import make_case

QUICK = ["max_epochs=1", "steps_per_epoch=1", "batch_size=1", "num_workers=0", "train::trainer::tracking=false"]
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of four cases of three people, and a bundle planned on it."""
    root = tmp_path_factory.mktemp("good")
    data = root / "data"
    for seed, name in enumerate(NAMES):
        make_case(data, name, shape=(12, 12, 12), seed=seed)
    write_list(data, NAMES)
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1}, "channels": ["MRI"]}))
    assert main(["plan", "--data", str(data), "--output", str(root / "b"), "--preset", "resenc_unet", "--quiet"]) == 0
    return root


def write_list(data: Path, names: tuple[str, ...]) -> None:
    """cases.csv; `c` and `d` are two scans of one person."""
    rows = [
        f"images/{file}.nii.gz,labels/{file}.nii.gz,{name},{'anna' if file in 'cd' else file}"
        for file, name in zip(NAMES, names, strict=True)
    ]
    (data / "cases.csv").write_text("\n".join(["image,label,name,subject", *rows]))


def other_grid(data: Path) -> None:
    case = make_case(data.parent / "other", "b", shape=(9, 9, 9), radius=2)
    assert case.label is not None
    shutil.copy(case.label, data / "labels" / "b.nii.gz")


def undeclared_value(data: Path) -> None:
    path = data / "labels" / "b.nii.gz"
    write_label(path, read_label(path).array * 7, like=read_header(path))


def empty_everywhere(data: Path) -> None:
    for name in NAMES:
        path = data / "labels" / f"{name}.nii.gz"
        write_label(path, np.zeros((12, 12, 12), np.uint8), like=read_header(path))


def nan_voxels(data: Path) -> None:
    path = data / "images" / "b.nii.gz"
    write_image(path, np.full((1, 12, 12, 12), np.nan, np.float32), like=read_header(path))


def duplicate_names(data: Path) -> None:
    write_list(data, ("a", "b", "c", "B"))


def leaking_split(data: Path) -> None:
    (data / "splits_final.json").write_text(json.dumps([{"train": ["a", "c"], "val": ["b", "d"]}]))


def unknown_case(data: Path) -> None:
    (data / "splits_final.json").write_text(json.dumps([{"train": ["a", "zebra"], "val": ["b"]}]))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "image and label on different grids": (other_grid, "case 'b'"),
    "undeclared label value": (undeclared_value, "undeclared label value 7"),
    "NaN voxels": (nan_voxels, "holds nan"),
    "duplicate case names": (duplicate_names, "two cases are named 'B'"),
    "a split that leaks a patient": (leaking_split, "subjects are in training and in validation: anna"),
    "a fold that names unknown cases": (unknown_case, "zebra"),
}
FAULTS_AT_PLANNING = FAULTS | {"an empty label everywhere": (empty_everywhere, "all 4 label maps are empty")}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("medseg", "error", "Error"))]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("name", FAULTS_AT_PLANNING)
def test_planning_names_the_fault_and_writes_nothing(good: Path, tmp_path: Path, capsys, name: str) -> None:
    shutil.copytree(good / "data", tmp_path / "data")
    make, words = FAULTS_AT_PLANNING[name]
    make(tmp_path / "data")
    assert main(["plan", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "b"), "--quiet"]) == 1
    assert words in one_line(capsys)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", FAULTS)
def test_training_names_a_fault_that_came_later_and_loses_nothing(
    good: Path, tmp_path: Path, capsys, name: str
) -> None:
    for part in ("data", "b"):
        shutil.copytree(good / part, tmp_path / part)
    bundle = tmp_path / "b"
    make, words = FAULTS[name]
    make(tmp_path / "data")
    split = tmp_path / "data" / "splits_final.json"
    if split.exists():  # the bundle's own folds are what counts now
        split.rename(bundle / "configs" / "splits.json")
    for earlier in (bundle / "runs" / "fold_0" / "metrics.json", bundle / "models" / "model.pt"):
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("[]")
    assert main(["fit", str(bundle), *QUICK, f"dataset_dir={tmp_path / 'data'}", "--quiet"]) == 1
    assert words in one_line(capsys)
    assert (bundle / "models" / "model.pt").read_text() == "[]"
    assert len(list((bundle / "runs").glob("*/metrics.json"))) == 1
    assert not list(bundle.glob("runs/*/last.ckpt"))
