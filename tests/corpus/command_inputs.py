"""Lists, datasets, bundles and checkpoints: broken inputs that only a whole command meets.

Each entry prepares an empty folder and gives the words of the command and what its one line must match. `bundle` is a sound
bundle that may be copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.io.header import Header
from medseg.io.volume import write_image, write_label
from tests.corpus.entry import SHAPE, voxels
from tests.datasets.layouts import make_decathlon, make_folder, make_nnunet


@dataclass(frozen=True)
class Command:
    """One command line that must be refused.

    Attributes:
        prepare: (folder, sound bundle) -> words; "OUT" in them becomes an output folder that must stay empty.
        error: regular expression of the line.
    """

    prepare: Callable[[Path, Path], list[str]]
    error: str


def scan(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    write_image(path, voxels("f4"), Header.of_array(SHAPE, np.eye(4)))
    return path


def with_list(text: str | bytes) -> Callable[[Path, Path], list[str]]:
    def prepare(folder: Path, bundle: Path) -> list[str]:
        content = text if isinstance(text, bytes) else text.encode()
        (folder / "list.csv").write_bytes(content)
        return ["predict", str(bundle), str(folder / "list.csv"), "-o", "OUT"]

    return prepare


def with_bundle(change: Callable[[Path], object]) -> Callable[[Path, Path], list[str]]:
    def prepare(folder: Path, bundle: Path) -> list[str]:
        copy = folder / "copy"
        shutil.copytree(bundle, copy)
        change(copy)
        return ["predict", str(copy), str(scan(folder)), "-o", "OUT", "--threads", "1"]

    return prepare


def with_dataset(make: Callable[[Path], Path], change: Callable[[Path], object]) -> Callable[[Path, Path], list[str]]:
    def prepare(folder: Path, bundle: Path) -> list[str]:
        root = make(folder / "data")
        change(root)
        return ["plan", "--data", str(root), "--output", "OUT"]

    return prepare


def cut(name: str, share: float = 0.6) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * share)])

    return change


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text, encoding="utf-8")


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def relabel(value: int) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        write_label(root / "labels/b.nii.gz", np.full((6, 7, 8), value), Header.of_array((6, 7, 8), np.eye(4)))

    return change


def regrid(root: Path) -> None:
    write_label(root / "labels/b.nii.gz", np.ones((6, 7, 8), int), Header.of_array((6, 7, 8), np.diag([2.0, 1, 1, 1])))


def without_key(root: Path) -> None:
    path = root / "configs/inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("network_def")
    path.write_text(json.dumps(config), encoding="utf-8")


LISTS = {
    "list empty": Command(with_list(""), r"list\.csv: has no column 'image'"),
    "list without image column": Command(with_list("picture\na.nii\n"), r"list\.csv: has no column 'image'"),
    "list unknown column": Command(with_list("image,lable\na.nii,b\n"), "unknown column 'lable'"),
    "list no rows": Command(with_list("image\n"), "lists no case"),
    "list gap": Command(with_list("image,name\n,x\n"), "line 2 has no 'image'"),
    "list twice": Command(with_list("image\na.nii\nb/a.nii\n"), "two cases are named 'a'"),
    "list leaves its folder": Command(with_list("name,image\n../../x,a.nii\n"), "cannot name a file"),
    "list binary": Command(with_list(bytes(range(256))), "is not UTF-8 text"),
    "list of a missing file": Command(with_list("image\nlost.nii.gz\n"), r"lost\.nii\.gz: no such file"),
    "input folder empty": Command(
        lambda folder, bundle: ["predict", str(bundle), str(_empty(folder / "scans")), "-o", "OUT"],
        "scans: holds no volume",
    ),
    "pattern without match": Command(
        lambda folder, bundle: ["predict", str(bundle), f"{folder}/*.nrrd", "-o", "OUT"], "matches no volume"
    ),
    "no bundle": Command(
        lambda folder, bundle: ["predict", str(folder / "nothing"), str(scan(folder)), "-o", "OUT"], "nothing"
    ),
}
BUNDLES = {
    "bundle without weights": Command(with_bundle(remove("models")), "model|weights"),
    "bundle weights cut": Command(with_bundle(cut("models/model.pt")), r"model\.pt"),
    "bundle weights empty": Command(with_bundle(write("models/model.pt", "")), r"model\.pt"),
    "bundle weights are text": Command(with_bundle(write("models/model.pt", "weights")), r"model\.pt"),
    "bundle config is not JSON": Command(with_bundle(cut("configs/inference.json")), r"inference\.json"),
    "bundle metadata is not JSON": Command(with_bundle(cut("configs/metadata.json")), r"metadata\.json"),
    "bundle without inference.json": Command(with_bundle(remove("configs/inference.json")), "inference"),
    "bundle without network": Command(with_bundle(without_key), "network_def"),
}
DATASETS = {
    "dataset empty": Command(
        lambda folder, bundle: ["plan", "--data", str(_empty(folder / "data")), "--output", "OUT"], "data: is empty"
    ),
    "dataset of another kind": Command(
        lambda folder, bundle: ["plan", "--data", str(_unknown(folder / "data")), "--output", "OUT"],
        "no known dataset layout",
    ),
    "dataset.json cut": Command(with_dataset(make_decathlon, cut("dataset.json")), r"dataset\.json: is not valid JSON"),
    "dataset file listed but lost": Command(
        with_dataset(make_decathlon, remove("imagesTr/b_1.nii.gz")), r"b_1\.nii\.gz: no such file, though"
    ),
    "dataset channel lost": Command(
        with_dataset(make_nnunet, remove("imagesTr/sub-2_scan_0001.nii.gz")),
        "case 'sub-2_scan': has no file for channel T2",
    ),
    "dataset label map lost": Command(with_dataset(make_folder, remove("labels/b.nii.gz")), "no such label map"),
    "dataset undeclared label": Command(with_dataset(make_folder, relabel(9)), "undeclared label value 9"),
    "dataset other grid": Command(with_dataset(make_folder, regrid), "different grids"),
    "dataset image cut": Command(
        with_dataset(make_folder, cut("images/b.nii.gz")), r"images/b\.nii\.gz.*compressed data end"
    ),
    "dataset folds name strangers": Command(
        with_dataset(make_folder, write("splits_final.json", '[{"train": ["a"], "val": ["z"]}]')),
        "unknown cases such as 'z'",
    ),
}
COMMANDS: dict[str, Command] = {**LISTS, **BUNDLES, **DATASETS}


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _unknown(folder: Path) -> Path:
    folder.mkdir()
    (folder / "readme.txt").write_text("x")
    return folder
