"""R4: one case in ten is bad: the others are segmented bit for bit as alone, the bad ones are named, the exit code is 3."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .base import Child, Outcome, digest, make_data, make_predicting, temporary_files


def _nan(path: Path) -> None:
    import nibabel

    image = nibabel.load(path)
    array = np.asarray(image.dataobj, dtype=np.float32).copy()
    array[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def _wrong_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)


FAULTS: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(path.read_bytes()[:-40]),
    _nan,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("scanner notes"),
    _wrong_checksum,
    lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400])),
]


def run(times: int, seed: int, folder: Path) -> Outcome:
    """`times` cases, every tenth of them bad."""
    outcome = Outcome()
    data = make_data(folder / "data", times, (16, 16, 16))
    bundle = make_predicting(folder / "bundle", make_data(folder / "plan", 3))
    scans = sorted((data / "images").glob("*.nii.gz"))
    bad = scans[4::10]
    for number, path in enumerate(bad):
        FAULTS[number % len(FAULTS)](path)
    options = ["--threads", "1", "--engine", "eager", "--no-preview"]
    child = Child(
        ["predict", str(bundle), str(data / "images"), "-o", str(folder / "all"), *options], folder / "log"
    ).wait(900)
    names = [path.name.removesuffix(".nii.gz") for path in bad]
    told = [line for line in child.errors if "see above" not in line]
    outcome.expect(child.code == 3, f"exit code {child.code}: {child.text[-500:]}")
    outcome.expect(len(told) == len(bad), f"{len(told)} lines for {len(bad)} bad cases: {told}")
    outcome.expect(all(any(str(path) in line for line in told) for path in bad), f"not every bad file is named: {told}")
    outcome.expect(
        all(name in child.errors[-1] for name in names), f"the last line does not list them: {child.errors[-1:]}"
    )
    outcome.expect(not (left := temporary_files(folder / "all")), f"left {left}")
    outcome.counts |= {"cases": times, "bad, named": len(told)}
    for path in scans:
        name = path.name
        if path in bad:
            outcome.expect(not (folder / "all" / name).exists(), f"{name}: a label map of a bad case")
            continue
        single = Child(["predict", str(bundle), str(path), "-o", str(folder / "one"), *options], folder / "log").wait()
        same = single.code == 0 and digest(folder / "all" / name) == digest(folder / "one" / name)
        outcome.count("equal bit for bit to a single run", same)
        outcome.expect(same, f"{name}: differs from its single run")
    return outcome
