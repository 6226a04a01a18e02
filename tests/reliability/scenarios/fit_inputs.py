"""R1 and R8 for `medseg fit`: broken datasets, bundles and checkpoints are refused before training, damaged stores rebuilt.

Each broken input: exit code 1, one line naming the file, at most 2 s of processor time and 200 MB over idle, no weights, no
checkpoint, nothing temporary. Each damaged entry of the store: one warning, the right voxels, a training that succeeds.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .base import Child, Outcome, make_data, make_planned, temporary_files
from .kill_prepare import ONE_EPOCH, stored

SLOWEST_S, LARGEST_MB = 2.0, 200.0
Change = Callable[[Path, Path], object]  # (bundle, data)


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return os.system, ("touch canary",)


def data_cut(name: str) -> Change:
    return lambda bundle, data: (data / name).write_bytes((data / name).read_bytes()[:-60])


def data_file(name: str, make: Callable[[], np.ndarray]) -> Change:
    def change(bundle: Path, data: Path) -> None:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(make(), np.eye(4)), data / name)

    return change


def bundle_text(name: str, text: str) -> Change:
    def change(bundle: Path, data: Path) -> None:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text)

    return change


def bundle_cut(name: str) -> Change:
    return lambda bundle, data: (bundle / name).write_bytes(
        (bundle / name).read_bytes()[: (bundle / name).stat().st_size // 2]
    )


def csv_list(text: str) -> Change:
    """The bundle's dataset becomes a csv list."""

    def change(bundle: Path, data: Path) -> None:
        for place in ("images", "labels"):
            (data / place).rename(data / f"the_{place}")
        (data / "cases.csv").write_text(text)

    return change


def evil_checkpoint(bundle: Path, data: Path) -> None:
    (bundle / "runs/fold_0").mkdir(parents=True, exist_ok=True)
    (bundle / "runs/fold_0/last.ckpt").write_bytes(pickle.dumps(_Evil()))


def checkpoint_of(value: Any) -> Change:
    def change(bundle: Path, data: Path) -> None:
        import torch

        (bundle / "runs/fold_0").mkdir(parents=True, exist_ok=True)
        torch.save(value, bundle / "runs/fold_0/last.ckpt")

    return change


def gone(bundle: Path, data: Path) -> None:
    shutil.rmtree(data)


IMAGE, LABEL = "images/ball_0001.nii.gz", "labels/ball_0001.nii.gz"
CUBE = (16, 16, 16)
BROKEN: dict[str, tuple[Change, str]] = {
    "dataset gone": (gone, "data"),
    "image cut": (data_cut(IMAGE), "ball_0001"),
    "label cut": (data_cut(LABEL), "ball_0001"),
    "image lost": (lambda bundle, data: (data / IMAGE).unlink(), "ball_0001"),
    "label lost": (lambda bundle, data: (data / LABEL).unlink(), "ball_0001"),
    "image is text": (lambda bundle, data: (data / IMAGE).write_text("notes"), "ball_0001"),
    "image empty": (lambda bundle, data: (data / IMAGE).write_bytes(b""), "ball_0001"),
    "image NaN": (data_file(IMAGE, lambda: np.full(CUBE, np.nan, np.float32)), "ball_0001"),
    "image of another size": (data_file(IMAGE, lambda: np.zeros((9, 16, 16), np.float32)), "ball_0001"),
    "label undeclared": (data_file(LABEL, lambda: np.full(CUBE, 7, np.uint8)), "ball_0001"),
    "label fractions": (data_file(LABEL, lambda: np.full(CUBE, 0.5, np.float32)), "ball_0001"),
    "folds are text": (bundle_text("configs/splits.json", "folds"), "splits.json"),
    "folds are no list": (bundle_text("configs/splits.json", "{}"), "splits.json|fold"),
    "folds name strangers": (
        bundle_text("configs/splits.json", '[{"train": ["x"], "val": ["y"]}]'),
        "does not have: x, y",
    ),
    "fold leaks": (bundle_text("configs/splits.json", '[{"train": ["ball_0001"], "val": ["ball_0001"]}]'), "ball_0001"),
    "train.json cut": (bundle_cut("configs/train.json"), "train.json"),
    "train.json lost": (lambda bundle, data: (bundle / "configs/train.json").unlink(), "train.json"),
    "metadata cut": (bundle_cut("configs/metadata.json"), "metadata.json"),
    "csv empty": (csv_list(""), "cases.csv"),
    "csv without images": (csv_list("picture,label\na,b\n"), "cases.csv"),
    "csv of lost files": (csv_list("name,image,label\nball_0001,lost.nii.gz,lost.nii.gz\n"), "lost.nii.gz"),
    "checkpoint empty": (bundle_text("runs/fold_0/last.ckpt", ""), "last.ckpt"),
    "checkpoint is text": (bundle_text("runs/fold_0/last.ckpt", "weights"), "last.ckpt"),
    "checkpoint runs code": (evil_checkpoint, "last.ckpt"),
    "checkpoint of something else": (checkpoint_of({"weights": 1}), "last.ckpt"),
}


def _fit(bundle: Path, log: Path, *more: str, before: Callable[[], None] | None = None) -> Child:
    words = ["fit", str(bundle), *ONE_EPOCH, "batch_size=2", "num_workers=0", "--quiet", "--resume"]
    return Child([*words, "train::trainer::tracking=false", *more], log, before)


def run(times: int, seed: int, folder: Path) -> Outcome:
    """About `times` of the broken inputs, and as large a part of the damages; all of them from 25 on."""
    outcome, part = Outcome(), max(1, len(BROKEN) // times)
    data = make_data(folder / "data")
    pristine = make_planned(folder / "pristine", data)
    os.environ["MEDSEG_STORE"] = str(folder / "store")
    for name, (change, words) in list(BROKEN.items())[::part]:
        _refused(outcome, name, change, words, pristine, data, folder / "trial")
    _damaged_stores(outcome, pristine, folder, part)
    outcome.expect(not Path("canary").exists(), "a checkpoint ran code")
    return outcome


def _refused(outcome: Outcome, name: str, change: Change, words: str, pristine: Path, data: Path, folder: Path) -> None:
    import re

    shutil.rmtree(folder, ignore_errors=True)
    bundle, copy = folder / "bundle", folder / "data"
    shutil.copytree(pristine, bundle)
    shutil.copytree(data, copy)
    for path, key in ((bundle / "configs/train.json", "dataset_dir"), (bundle / "plan.json", "data_folder")):
        content = json.loads(path.read_text())
        content[key] = str(copy)
        path.write_text(json.dumps(content))
    change(bundle, copy)
    facts = folder / "facts"
    child = _fit(bundle, folder / "log", before=lambda: _note_cost(facts)).wait(120)
    lines = child.text.replace("\r", "\n").splitlines()
    said = [line for line in lines if line.startswith("medseg: ")]
    outcome.count("refused", child.code == 1)
    outcome.expect(child.code == 1, f"{name}: exit code {child.code}: {child.text[-600:]}")
    outcome.expect(len(said) == 1 and re.search(words, said[0]) is not None, f"{name}: said {child.text[-600:]}")
    outcome.expect("Traceback" not in child.text, f"{name}: a traceback: {child.text[-600:]}")
    left = [path.name for path in (*bundle.rglob("model.pt"), *bundle.rglob("result.json"))]
    outcome.expect(not left and not temporary_files(bundle, folder), f"{name}: left {left} {temporary_files(bundle)}")
    if facts.exists():
        seconds, megabytes = (float(word) for word in facts.read_text().split())
        outcome.counts["slowest s"] = max(outcome.counts.get("slowest s", 0.0), round(seconds, 2))
        outcome.counts["most MB over idle"] = max(outcome.counts.get("most MB over idle", 0.0), round(megabytes))
        outcome.expect(seconds <= SLOWEST_S, f"{name}: {seconds:.1f} s")
        outcome.expect(megabytes <= LARGEST_MB, f"{name}: {megabytes:.0f} MB")


def _note_cost(facts: Path) -> None:
    """In the fork: write processor time and growth of memory when it ends."""
    import resource

    def peak() -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    leave, idle = os._exit, peak()

    def note_and_leave(code: int) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        facts.write_text(f"{usage.ru_utime + usage.ru_stime} {peak() - idle}")
        leave(code)

    os._exit = note_and_leave  # type: ignore[assignment]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)


def _damaged_stores(outcome: Outcome, pristine: Path, folder: Path, part: int) -> None:
    """20 damages of stored cases, five kinds of them on each file, or every `part`-th; each is rebuilt with one warning."""
    bundle, store = folder / "stored", folder / "store_damaged"
    shutil.copytree(pristine, bundle)
    os.environ["MEDSEG_STORE"] = str(store)
    first = _fit(bundle, folder / "log").wait()
    outcome.expect(first.code == 0, f"first training: {first.text[-500:]}")
    sound = {path.relative_to(store): path.read_bytes() for path in store.rglob("*.npy")}
    damages: dict[str, Callable[[Path], object]] = {
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
        "flipped": _flip,
        "empty": lambda path: path.write_bytes(b""),
        "lost": lambda path: path.unlink(),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    }
    files = ("image.npy", "label.npy", "foreground.npy", "case.json")
    for file, name in [(file, name) for file in files for name in damages][::part]:
        victim = sorted(store.glob(f"*/*/{file}"))[1]
        damages[name](victim)
        (bundle / "runs/fold_0/result.json").unlink(missing_ok=True)
        again = _fit(bundle, folder / "log").wait()
        warned = [line for line in again.text.splitlines() if "preprocessing it again" in line]
        now = {path.relative_to(store): path.read_bytes() for path in store.rglob("*.npy")}
        outcome.count("stored cases damaged")
        right = again.code == 0 and now == sound and len(warned) == 1 and not stored(store)[1]
        outcome.count("rebuilt with one warning", right)
        outcome.expect(right, f"store, {file} {name}: {again.code} {warned} {again.text[-300:]}")
