"""R7: full disks, read-only and impossible outputs, inputs that vanish, pipes, slow drives, two writers on one folder.

Full disks are a limit on file sizes and, where mounting is permitted, a small file system in memory.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .base import Child, Outcome, broken_files, digest, make_data, make_planned, make_predicting, temporary_files
from .kill_fit import SETTINGS

OPTIONS = ("--threads", "1", "--engine", "eager")


def largest_file(count: int) -> Callable[[], None]:
    """For `Child`: the kernel refuses to let any file grow beyond this, as a full disk or a quota does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    return limit


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A file system of that size at `folder`; yields whether mounting is permitted here."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def refused(
    outcome: Outcome, name: str, child: Child, *places: Path, words: str = "cannot be written", code: int = 1
) -> None:
    """Exit code, lines that say why, nothing broken and nothing temporary left."""
    outcome.count("situations")
    lines = [line for line in child.errors if "see above" not in line]
    outcome.expect(child.code == code, f"{name}: exit code {child.code}: {child.text[-600:]}")
    outcome.expect(bool(lines) and all(words in line for line in lines), f"{name}: said {child.text[-600:]}")
    outcome.expect("Traceback" not in child.text, f"{name}: a traceback: {child.text[-900:]}")
    for place in places:
        if place.is_dir():
            outcome.expect(not (bad := broken_files(place)), f"{name}: broken: {bad}")
            outcome.expect(not (left := temporary_files(place)), f"{name}: left {left}")


def vanishing(path: Path) -> Callable[[], None]:
    """For `Child`: the file is deleted when the first case has been read."""

    def patch() -> None:
        from medseg.cases import batch

        read = batch.read_case_image

        def read_then_delete(*arguments: Any, **options: Any) -> Any:
            volume = read(*arguments, **options)
            path.unlink(missing_ok=True)
            return volume

        batch.read_case_image = read_then_delete

    return patch


class _Slow:
    """A file as a bad network drive gives it: a few bytes per call, each after a pause."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        time.sleep(0.002)
        return self.file.read(min(size, 700) if size > 0 else size)

    def readinto(self, buffer: Any) -> int:
        time.sleep(0.002)
        return self.file.readinto(memoryview(buffer)[:700])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> _Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def slow_drive() -> None:
    """For `Child`: volumes are read through `_Slow`."""
    real = builtins.open

    def open_slowly(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = real(path, mode, *arguments, **options)
        return _Slow(file) if mode == "rb" and str(path).endswith((".nii.gz", ".nii")) else file

    builtins.open = open_slowly  # type: ignore[assignment]


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome, data = Outcome(), make_data(folder / "data", 4)
    bundle = make_predicting(folder / "bundle", data)
    log = folder / "log"

    number = itertools.count()  # two at once must not share their streams

    def predict(out: Path, source: Path = data / "images", before: Callable[[], None] | None = None) -> Child:
        return Child(["predict", str(bundle), str(source), "-o", str(out), *OPTIONS], log / str(next(number)), before)

    assert predict(folder / "whole").wait().code == 0
    labels = {path.name: digest(path) for path in (folder / "whole").glob("*.nii.gz")}
    _full_disks(outcome, folder, data, predict)
    _places(outcome, folder, data, predict)
    _inputs(outcome, folder, data, predict, labels)
    return outcome


def _full_disks(outcome: Outcome, folder: Path, data: Path, predict: Any) -> None:
    # plain files of 4448 bytes; the screen's text, a file here as well, stays below
    words = [
        "predict",
        str(folder / "bundle"),
        str(data / "images"),
        "-o",
        str(folder / "a"),
        "--format",
        "nii",
        *OPTIONS,
    ]
    refused(
        outcome, "predict, 2500 bytes a file", Child(words, folder / "log", largest_file(2500)).wait(), folder / "a"
    )
    # label maps fit, pictures do not: a case is whole or failed
    child = predict(folder / "b", before=largest_file(3000)).wait()
    refused(outcome, "predict, 3000 bytes a file", child, folder / "b")
    words = ["plan", "--data", str(data), "--output", str(folder / "c"), "--preset", "tiny", "--quiet"]
    refused(outcome, "plan, 600 bytes a file", Child(words, folder / "log", largest_file(600)).wait(), folder / "c")
    trained = make_planned(folder / "trained", data)
    fit = ["fit", str(trained), *SETTINGS, "train::trainer::tracking=false"]
    os.environ["MEDSEG_STORE"] = str(folder / "store_full")
    child = Child(fit, folder / "log", largest_file(9000)).wait()
    refused(outcome, "fit, store does not fit", child, trained, folder / "store_full", words="cannot write")
    os.environ["MEDSEG_STORE"] = str(folder / "store")
    child = Child(fit, folder / "log", largest_file(20000)).wait()
    refused(outcome, "fit, checkpoint does not fit", child, trained)
    for size in ("8k", "28k"):
        with small_disk(folder / f"disk_{size}", size) as permitted:
            outcome.count("small file systems" if permitted else "skipped: mounting is not permitted", 1)
            if permitted:
                out = folder / f"disk_{size}" / "out"
                child = predict(out).wait()
                # 3 when cases were finished, but 1 when not even the table of the finished ones could be written
                refused(outcome, f"predict, disk of {size}", child, out, code=3 if child.code == 3 else 1)


def _places(outcome: Outcome, folder: Path, data: Path, predict: Any) -> None:
    (folder / "file").write_text("a file")
    refused(outcome, "output is a file", predict(folder / "file").wait(), words="file")
    refused(outcome, "output below a file", predict(folder / "file" / "out").wait(), words="file")
    with small_disk(folder / "readonly", "1M") as permitted:
        outcome.count("small file systems" if permitted else "skipped: mounting is not permitted")
        if permitted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder / "readonly")], check=True, capture_output=True)
            refused(outcome, "read-only output", predict(folder / "readonly" / "out").wait(), words="Read-only")
            words = [
                "plan",
                "--data",
                str(data),
                "--output",
                str(folder / "readonly" / "b"),
                "--preset",
                "tiny",
                "--quiet",
            ]
            refused(outcome, "plan, read-only", Child(words, folder / "log").wait(), words="Read-only")
    two = [predict(folder / "shared") for _ in range(2)]
    codes = sorted(child.wait().code for child in two)
    outcome.count("situations")
    said = " ".join(child.text for child in two)
    outcome.expect(codes == [0, 1], f"two writers: exit codes {codes}: {said[-500:]}")
    outcome.expect("another folder with --output" in said, f"two writers: said {said[-500:]}")
    outcome.expect(not broken_files(folder / "shared"), f"two writers: {broken_files(folder / 'shared')}")
    outcome.expect(not temporary_files(folder / "shared"), f"two writers left {temporary_files(folder / 'shared')}")


def _inputs(outcome: Outcome, folder: Path, data: Path, predict: Any, labels: dict[str, str]) -> None:
    found = {path.name: digest(path) for path in (folder / "shared").glob("*.nii.gz")}
    outcome.expect(found == labels, "two writers: other label maps than one writer's")
    scans = folder / "scans"
    shutil.copytree(data / "images", scans)
    child = predict(folder / "out", scans, vanishing(scans / "ball_0003.nii.gz")).wait()
    refused(outcome, "an input vanished", child, folder / "out", words="ball_0003", code=3)
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes" / "scan.nii.gz")
    child = predict(folder / "piped", folder / "pipes" / "scan.nii.gz").wait(60)
    refused(outcome, "a pipe as an input", child, folder / "piped", words="scan.nii.gz")
    child = predict(folder / "slow", before=slow_drive).wait()
    found = {path.name: digest(path) for path in (folder / "slow").glob("*.nii.gz")}
    outcome.count("situations")
    outcome.expect(child.code == 0 and found == labels, f"slow drive: {child.code} {child.text[-500:]}")
