"""R12: repeats give identical labels and equal records; other thread counts and window batches may differ at near-ties only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .base import Child, Outcome, digest, make_data, make_predicting

# Logits are sums of some hundred float32 products; another order of the sum moves a probability by less than this.
NEAR_TIE = 1e-3


def predict(bundle: Path, image: Path, out: Path, *more: str, threads: int = 1) -> Child:
    def set_threads() -> None:
        import torch

        torch.set_num_threads(threads)

    words = ["predict", str(bundle), str(image), "-o", str(out), "--threads", str(threads), "--engine", "eager"]
    return Child([*words, "--no-preview", *more], out.parent / "log", set_threads).wait()


def run(times: int, seed: int, folder: Path) -> Outcome:
    from medseg.io.volume import read_image, read_label

    outcome = Outcome()
    bundle = make_predicting(folder / "bundle", make_data(folder / "data"))
    image = make_data(folder / "large", 1, (30, 26, 22)) / "images" / "ball_0000.nii.gz"
    labels, records = set(), set()
    for repeat in range(times):
        out = folder / f"repeat_{repeat}"
        ran = predict(bundle, image, out)
        outcome.expect(ran.code == 0, ran.text[-500:])
        labels.add(digest(out / "ball_0000.nii.gz"))
        record = json.loads((out / "ball_0000.json").read_text())
        record.pop("seconds")
        record.pop("stamps")  # times of the files
        records.add(json.dumps(record, sort_keys=True))
        outcome.count("repeats")
    outcome.expect(len(labels) == 1, f"{len(labels)} different label maps")
    outcome.expect(len(records) == 1, f"{len(records)} different records")
    predict(bundle, image, folder / "soft", "--probabilities")
    probabilities = np.sort(read_image(folder / "soft" / "ball_0000_probabilities.nii.gz").array, axis=0)
    margin = probabilities[-1] - probabilities[-2]
    expected = read_label(folder / "repeat_0" / "ball_0000.nii.gz").array
    for name, threads, more in (
        ("threads", 2, []),
        ("threads", 3, []),
        ("batch", 1, ["2"]),
        ("batch", 1, ["4"]),
        ("batch", 2, ["3"]),
    ):
        out = folder / f"other_{name}_{threads}_{''.join(more)}"
        words = ["--window-batch", *more] if more else []
        ran = predict(bundle, image, out, *words, threads=threads)
        outcome.expect(ran.code == 0, ran.text[-500:])
        differs = read_label(out / "ball_0000.nii.gz").array != expected
        far = int((differs & (margin > NEAR_TIE)).sum())
        outcome.count("other settings")
        outcome.count("voxels at near-ties that differ", int(differs.sum()))
        outcome.expect(far == 0, f"{out.name}: {far} voxels differ beyond near-ties")
    return outcome
