"""R6, prediction: `medseg predict` of a folder is killed at random times and continued.

After a kill every label map reads whole; where its record stands too, the record's checksum is that of the label map.
`--continue` finishes, computes no finished case again, and all label maps are those of an undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from .base import Child, Outcome, broken_files, digest, make_data, make_predicting, temporary_files

CASES = 5
PAUSE_S = 0.05


def slow_flush() -> None:
    """Every file stays half a moment under its temporary name, so that kills land there."""
    from medseg.io import atomic

    flush = atomic.flush_to_disk

    def slow(path: Path) -> None:
        if path.is_file():
            time.sleep(PAUSE_S)
        flush(path)

    atomic.flush_to_disk = slow


def predict(bundle: Path, data: Path, out: Path, *more: str, before: Any = None) -> Child:
    words = ["predict", str(bundle), str(data / "images"), "-o", str(out), "--threads", "1", "--engine", "eager", *more]
    return Child(words, out.parent / f"log_{out.name}", before)


def finished(out: Path) -> tuple[dict[str, int], list[str]]:
    """Cases whose record stands with the time of its label map, and those whose record tells of another label map."""
    from medseg.io.volume import read_label

    done, wrong = {}, []
    for path in out.glob("ball_*.json"):
        label = path.with_suffix(".nii.gz")
        if not label.exists():
            wrong.append(f"{path.name} without a label map")
            continue
        array = np.ascontiguousarray(read_label(label).array.astype(np.uint8))
        if hashlib.sha256(array.tobytes()).hexdigest() != json.loads(path.read_text())["label_sha256"]:
            wrong.append(f"{path.name} tells of another label map")
        done[path.stem] = label.stat().st_mtime_ns
    return done, wrong


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome, source = Outcome(), random.Random(seed)
    data = make_data(folder / "data", CASES, (24, 24, 24))
    bundle = make_predicting(folder / "bundle", data)
    whole = predict(bundle, data, folder / "whole", before=slow_flush).wait()
    assert whole.code == 0, whole.text
    labels = {path.name: digest(path) for path in (folder / "whole").glob("*.nii.gz")}
    for trial in range(times):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        child = predict(bundle, data, out, before=slow_flush)
        time.sleep(source.uniform(0, 1.0) * whole.seconds)
        outcome.count("killed" if child.running() else "ended before the kill")
        child.kill()
        child.wait()
        outcome.count("inside a write", bool(temporary_files(out)))
        before, wrong = finished(out)
        outcome.count("cases finished at a kill", len(before))
        bad = broken_files(out) if out.exists() else []
        outcome.expect(not bad and not wrong, f"trial {trial}: after the kill: {bad} {wrong}")
        again = predict(bundle, data, out, "--continue").wait()
        outcome.expect(again.code == 0, f"trial {trial}: --continue ended with {again.code}: {again.text[-500:]}")
        after, wrong = finished(out)
        recomputed = [name for name, when in before.items() if after.get(name) != when]
        outcome.expect(not recomputed, f"trial {trial}: computed again although finished: {recomputed}")
        found = {path.name: digest(path) for path in out.glob("*.nii.gz")}
        outcome.expect(found == labels and len(after) == CASES and not wrong, f"trial {trial}: other labels: {wrong}")
        outcome.expect(not (left := temporary_files(out)), f"trial {trial}: left {left}")
        rows = (out / "volumes.csv").read_text().splitlines() if (out / "volumes.csv").exists() else []
        outcome.expect(
            rows == (folder / "whole" / "volumes.csv").read_text().splitlines(), f"trial {trial}: other table"
        )
    return outcome
