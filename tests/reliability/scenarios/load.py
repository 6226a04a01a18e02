"""R15: many small cases through one `medseg predict`: memory, descriptors and temporary files do not grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from .base import Child, Outcome, make_data, make_predicting, temporary_files

GROWTH = 0.05


def make_many(folder: Path, count: int) -> Path:
    """Small volumes of three sizes."""
    from medseg.io.header import Header
    from medseg.io.volume import write_image

    for number in range(count):
        shape = [(10, 12, 8), (12, 10, 9), (11, 11, 10)][number % 3]
        array = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        write_image(folder / f"case_{number:04d}.nii", array, Header.of_array(shape, np.diag([1.5, 1.0, 2.0, 1.0])))
    return folder


def usage(pid: int) -> tuple[float, int]:
    """Resident memory in MB and open descriptors of a living process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


def run(times: int, seed: int, folder: Path) -> Outcome:
    """`times` cases; the first tenth, at least 20, is warming up."""
    outcome, first = Outcome(), max(20, times // 10)
    bundle = make_predicting(folder / "bundle", make_data(folder / "data", 3))
    scans, out = make_many(folder / "scans", times), folder / "out"
    words = ["predict", str(bundle), str(scans), "-o", str(out), "--threads", "1", "--engine", "eager"]
    child = Child(words, folder / "log")
    samples: dict[int, tuple[float, int]] = {}
    while child.running():
        lines = child.text.count("\n[") + child.text.startswith("[")
        if first <= lines < times and lines not in samples:
            try:
                samples[lines] = usage(child.pid)
            except (OSError, StopIteration):
                break
        time.sleep(0.05)
    child.wait()
    outcome.counts["cases"] = times
    outcome.expect(child.code == 0, f"exit code {child.code}: {child.text[-500:]}")
    outcome.expect(len(list(out.glob("case_*.nii.gz"))) == times, "not every case has its label map")
    outcome.expect(not (left := temporary_files(out)), f"left {left}")
    if len(samples) < 2:
        outcome.expect(False, f"measured only at {sorted(samples)}")
        return outcome
    numbers = sorted(samples)
    span = max(3, len(numbers) // 10)
    # memory breathes by a case: medians at both ends
    before = float(np.median([samples[n][0] for n in numbers[:span]]))
    after = float(np.median([samples[n][0] for n in numbers[-span:]]))
    opened = [int(np.median([samples[n][1] for n in part])) for part in (numbers[:span], numbers[-span:])]
    outcome.counts |= {"MB at the beginning": round(before, 1), "MB at the end": round(after, 1)}
    outcome.counts |= {"growth %": round(100 * (after / before - 1), 2), "descriptors more": opened[1] - opened[0]}
    outcome.expect(after <= (1 + GROWTH) * before, f"memory grew from {before:.1f} to {after:.1f} MB")
    outcome.expect(opened[1] <= opened[0], f"descriptors grew from {opened[0]} to {opened[1]}")
    return outcome
