"""R9: memory runs out at a window, planned, simulated or in earnest (a limit of the address space); the verb steps down and ends.

A smaller slab must give identical labels, 16 bits at least 99.9 % equal ones; each step is one line and stands in the record.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .base import Child, Outcome, make_data, make_predicting, temporary_files

SHAPE = (24, 20, 60)
SENTENCES = ("the smallest slab is used", "one window at a time", "logits are stored in 16 bits")


def shortage_at(window: int, times: int, *, how: str = "torch") -> Callable[[], None]:
    """For `Child`: the first `times` runs over the windows fail at this window."""

    def patch() -> None:
        import torch

        from medseg.inference.windows import slab

        add, failed = slab.Slab.add, [0]

        def failing(self: Any, logits: Any, start: Any) -> None:
            self.windows_added = getattr(self, "windows_added", 0) + 1
            if self.windows_added == window and failed[0] < times:
                failed[0] += 1
                if how == "torch":
                    raise torch.OutOfMemoryError("out of memory, says a test")
                raise MemoryError("simulated")
            add(self, logits, start)

        slab.Slab.add = failing  # type: ignore[method-assign]

    return patch


def limited_address_space(extra_mb: int) -> Callable[[], None]:
    """For `Child`: from the first slab on, this process gets no more than `extra_mb` of further address space."""

    def patch() -> None:
        from medseg.inference.predictor import Predictor

        run = Predictor._run

        def limited(self: Any, *arguments: Any) -> Any:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
                resource.setrlimit(resource.RLIMIT_AS, (used + (extra_mb << 20), resource.RLIM_INFINITY))
            return run(self, *arguments)

        Predictor._run = limited  # type: ignore[method-assign]

    return patch


def predict(bundle: Path, image: Path, out: Path, *more: str, before: Callable[[], None] | None = None) -> Child:
    words = ["predict", str(bundle), str(image), "-o", str(out), "--threads", "1", "--engine", "eager", "--no-preview"]
    return Child([*words, *more], out.parent / "log", before).wait()


def label_of(out: Path) -> np.ndarray:
    from medseg.io.volume import read_label

    return read_label(next(out.glob("*.nii.gz"))).array


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome = Outcome()
    bundle = make_predicting(folder / "bundle", make_data(folder / "data"))
    image = make_data(folder / "large", 1, SHAPE) / "images" / "ball_0000.nii.gz"
    assert predict(bundle, image, folder / "whole", "--window-batch", "2").code == 0
    expected = label_of(folder / "whole")

    def check(name: str, child: Child, steps: int, share: float) -> None:
        outcome.count("shortages")
        if child.code != 0:
            outcome.expect(False, f"{name}: exit code {child.code}: {child.text[-500:]}")
            return
        equal = float((label_of(folder / name) == expected).mean())
        record = json.loads(next((folder / name).glob("ball*.json")).read_text())["settings"]["stepped_down"]
        told = [line for line in child.text.splitlines() if "memory is short" in line]
        outcome.counts["lowest share of equal voxels"] = min(
            outcome.counts.get("lowest share of equal voxels", 1.0), equal
        )
        outcome.expect(equal >= share, f"{name}: {equal:.5f} of the voxels are equal, {share} asked")
        outcome.expect(len(record) == steps, f"{name}: the record tells {record}")
        outcome.expect(len(told) == steps, f"{name}: the screen tells {told}")
        outcome.count("finished after stepping down")

    for failures, share in ((1, 1.0), (2, 0.999), (3, 0.999)):
        for window in (1, 2, 5):
            how = "torch" if window % 2 else "python"
            name = f"{failures} times at window {window}"
            before = shortage_at(window, failures, how=how)
            child = predict(bundle, image, folder / name, "--window-batch", "2", before=before)
            check(name, child, failures, share)
            outcome.expect(all(s in child.text for s in SENTENCES[:failures]), f"{name}: {child.text[-400:]}")
    child = predict(bundle, image, folder / "planned", "--window-batch", "2", "--max-memory", "250KB")
    check("planned", child, 1, 1.0)
    hopeless = {
        "always": predict(bundle, image, folder / "always", before=shortage_at(1, 99)),
        "planned too little": predict(bundle, image, folder / "little", "--max-memory", "1KB"),
    }
    for name, child in hopeless.items():
        lines = child.errors
        outcome.count("hopeless shortages")
        outcome.expect(
            child.code == 1 and len(lines) == 1 and "not enough memory" in lines[0], f"{name}: {child.text[-500:]}"
        )
        outcome.expect("Traceback" not in child.text, f"{name}: {child.text[-500:]}")
        left = [path for out in ("always", "little") for path in (folder / out).glob("ball*")]
        outcome.expect(not left and not temporary_files(folder), f"{name}: left {left}")
    _in_earnest(outcome, bundle, folder)
    return outcome


def _in_earnest(outcome: Outcome, bundle: Path, folder: Path) -> None:
    """A volume of mostly constant air whose whole slab does not fit the address space that is left."""
    from medseg.io.header import Header
    from medseg.io.volume import write_image

    array = np.zeros((176, 176, 176), np.float32)
    array[60:90, 60:90, 60:90] = np.random.default_rng(0).normal(size=(30, 30, 30))
    write_image(folder / "large.nii.gz", array, Header.of_array(array.shape, np.eye(4)))
    words = ("--overlap", "0")
    free = predict(bundle, folder / "large.nii.gz", folder / "free", *words)
    tight = predict(bundle, folder / "large.nii.gz", folder / "tight", *words, before=limited_address_space(48))
    outcome.count("real shortages (address space)")
    if free.code != 0 or tight.code != 0:
        outcome.expect(False, f"in earnest: exit codes {free.code} {tight.code}: {tight.text[-600:]}")
        return
    record = json.loads((folder / "tight" / "large.json").read_text())["settings"]["stepped_down"]
    equal = float((label_of(folder / "free") == label_of(folder / "tight")).mean())
    outcome.expect(bool(record), "in earnest: nothing was given up: the limit was too generous to test anything")
    outcome.expect(equal >= (0.999 if len(record) > 1 else 1.0), f"in earnest: {equal} equal after {record}")
