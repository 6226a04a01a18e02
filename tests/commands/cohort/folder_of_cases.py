"""A bundle whose network fails on order, and folders of small scans for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from medseg.io import Header, write_image
from tests.bundle.samples import make_bundle
from tests.commands.cohort.network_of_faults import NetworkOfFaults

SHAPE = (16, 16, 16)


def faulty_bundle(folder: Path) -> Path:
    """A bundle that needs `trust`, and whose network does as the scans say."""
    layout = make_bundle(folder)
    config = json.loads(layout.inference.read_text())
    config["network_def"] = {"_target_": "tests.commands.cohort.network_of_faults.NetworkOfFaults"}
    config["preprocessing_def"]["spacing"] = [1.0, 1.0, 1.0]
    config["preprocessing_def"]["normalization"] = [{"kind": "none"}]
    layout.inference.write_text(json.dumps(config))
    torch.save(NetworkOfFaults().state_dict(), layout.weights)
    return folder


def write_scans(folder: Path, count: int, orders: dict[int, float] | None = None) -> list[str]:
    """`case_0000` and so on; a number in `orders` is given its order, and one with the order -1 is cut off in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(count):
        name = f"case_{number:04d}"
        array = np.random.default_rng(number).random(SHAPE).astype(np.float32)
        order = (orders or {}).get(number, 0.0)
        if order > 0:
            array[3, 4, 5] = order
        path = folder / f"{name}.nii.gz"
        write_image(path, array, Header.of_array(SHAPE, np.eye(4)))
        if order < 0:
            path.write_bytes(path.read_bytes()[:200])
        names.append(name)
    return names
