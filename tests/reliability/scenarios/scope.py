"""Cases outside of a model's training data: warned of by name, on the screen, in the record and the summary; and segmented."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from .base import Child, Outcome, make_data, make_predicting

CHANNEL = ("network_data_format", "inputs", "image", "channel_def", "0")


def run(times: int, seed: int, folder: Path) -> Outcome:
    from medseg.bundle.made_here import stays_ours
    from medseg.io.header import Header
    from medseg.io.volume import write_image
    from tests.io.dicom_maker import make_series

    outcome, data, scans = Outcome(), make_data(folder / "data", 4), folder / "scans"
    bundle = make_predicting(folder / "bundle", data)
    with stays_ours(bundle):
        for path, key in ((bundle / "plan.json", ("channels", "0")), (bundle / "configs" / "metadata.json", CHANNEL)):
            content = json.loads(path.read_text())
            functools.reduce(dict.__getitem__, key[:-1], content)[key[-1]] = "MRI"
            path.write_text(json.dumps(content))
    usual = np.random.default_rng(0).normal(0.5, 0.5, (16, 16, 16)).astype(np.float32)
    cases = {
        "usual": (usual, 1.0, ""),
        "coarse": (usual[::4], 4.0, "spacing"),
        "whole_body": (np.tile(usual, (4, 1, 1)), 1.0, "field of view"),
        "hounsfield": (usual * 100 - 1000, 1.0, ""),  # z-scored: the numbers of MR mean nothing
    }
    for name, (array, first, _) in cases.items():
        grid = Header.of_array(array.shape, np.diag([first, 1.0, 1.0, 1.0]))
        write_image(scans / f"{name}.nii.gz", np.ascontiguousarray(array), grid)
    make_series(scans / "computed")
    words = [
        "predict",
        str(bundle),
        str(scans),
        "-o",
        str(folder / "out"),
        "--threads",
        "1",
        "--engine",
        "eager",
        "--quiet",
        "--anyway",
    ]
    child = Child(words, folder / "log").wait()
    outcome.expect(child.code == 0, f"exit code {child.code}: {child.text[-600:]}")
    summary = {case["name"]: case for case in json.loads((folder / "out" / "summary.json").read_text())["cases"]}
    wanted = {name: word for name, (_, _, word) in cases.items()} | {"computed": "modality CT"}
    for name, word in wanted.items():
        record = json.loads((folder / "out" / f"{name}.json").read_text())["out_of_scope"]
        outcome.count("cases")
        outcome.expect(summary[name].get("out_of_scope", []) == record, f"{name}: the summary tells {summary[name]}")
        if word:
            outcome.count("warned of by name", any(word in sentence for sentence in record))
            outcome.expect(any(word in sentence for sentence in record), f"{name}: no word of {word}: {record}")
        else:
            outcome.expect(record == [], f"{name}: warned of {record}")
    said = [line for line in child.text.splitlines() if "outside of what this model was made for" in line]
    outcome.expect(len(said) == 1 and said[0].startswith("3 of 5 cases"), f"one line for the folder: {said}")
    return outcome
