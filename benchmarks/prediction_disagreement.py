"""Which voxels get other labels from MONAI's chain than from ours, and why: P1 once ended with 0.9967 equal labels of 0.998.

    python benchmarks/prediction_disagreement.py [--weights FILE] [--shape 120 120 72] [--threads 2]

Two networks, one of 40 steps (as the table had when it disagreed) and the converged one of prediction_weights.py, and two chains
of MONAI: clipping intensities after resampling, and before, as ours does. For each: the share of voxels with other labels than
ours, and how many of them lie where a voxel of the network's grid mixes air below the intensity window with skin. Torch on both
sides. Where a border lies on a ramp whose answer is known is a test: tests/benchmarks/test_prediction.py. Written to
benchmarks/results/prediction_disagreement.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from contest import RESULTS, machine
from prediction_contenders import SOURCE_SPACING
from prediction_phantom import LOWER, phantom, scaled, train
from prediction_weights import DEFAULT, checksum
from prediction_worker import SPACING, monai_chain, our_chain, unet

ROI = (64, 64, 64)


def mixed_with_air(hu: np.ndarray) -> np.ndarray:
    """Where the two orders of clipping and resampling may differ, on the source grid (X, Y, Z) boolean.

    A voxel of the resampled image is a mean of its neighbours: the order matters where some of them lie below the window and
    some do not. A label of the source grid is interpolated from logits of that grid, and a network sees some voxels around: all
    within two voxels of 1.5 mm of such a mixture count.
    """
    from scipy.ndimage import binary_dilation

    below = hu < LOWER
    reach = [2 * step / own for step, own in zip(SPACING, SOURCE_SPACING, strict=True)]
    block = np.ones([2 * int(np.ceil(one)) + 1 for one in reach], dtype=bool)
    return np.asarray(binary_dilation(below, block) & binary_dilation(~below, block))


def at_a_border(label: np.ndarray) -> np.ndarray:
    """Voxels with a neighbour of another label."""
    border = np.zeros(label.shape, dtype=bool)
    for axis in range(3):
        change = np.diff(label, axis=axis) != 0
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        border[tuple(low)] |= change
        border[tuple(high)] |= change
    return border


def compare(network: torch.nn.Module, source: Path, folder: Path, hu: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Ours against both orders of MONAI's."""
    chains = {
        "ours": our_chain(network, SPACING, ROI, "eager", "fp32"),
        "monai, clipped before resampling": monai_chain(network, SPACING, ROI),
        "monai, clipped after resampling": monai_chain(network, SPACING, ROI, clip_last=True),
    }
    labels = {}
    for name, run in chains.items():
        target = folder / f"{len(labels)}.nii.gz"
        run(str(source), str(target))
        labels[name] = np.asanyarray(nibabel.load(target).dataobj)
    ours, mixed = labels["ours"], mixed_with_air(hu)
    facts: dict[str, Any] = {"ours, right": float((ours == truth).mean()), "voxels beside air": float(mixed.mean())}
    for name, label in labels.items():
        if name == "ours":
            continue
        other = label != ours
        facts[name] = {
            "equal": float(1 - other.mean()),
            "right": float((label == truth).mean()),
            "differ": int(other.sum()),
            "of these beside air": float(mixed[other].mean()) if other.any() else None,
            "of these at a border of our labels": float(at_a_border(ours)[other].mean()) if other.any() else None,
        }
    return facts


def main() -> None:
    """Compare and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=DEFAULT, help="made once by prediction_weights.py")
    # multiples of 5 in X and Y: 0.9 mm and 1.5 mm then end at the same edge, and both chains have one grid
    parser.add_argument("--shape", type=int, nargs=3, default=(120, 120, 72))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--result", type=Path, default=RESULTS / "prediction_disagreement.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hu, truth = phantom(arguments.shape, SOURCE_SPACING)
    converged, short = unet(), unet()
    converged.load_state_dict(torch.load(arguments.weights, weights_only=True))
    train(short, scaled, SPACING, (48, 48, 48), steps=40)
    networks = {"40 steps": short, "converged": converged}
    table: dict[str, Any] = {
        "shape": arguments.shape,
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "ct.nii.gz"
        nibabel.save(
            nibabel.Nifti1Image(hu, np.diag([-SOURCE_SPACING[0], -SOURCE_SPACING[1], SOURCE_SPACING[2], 1.0])), source
        )
        for words, network in networks.items():
            facts = compare(network, source, Path(name), hu, truth)
            table[words] = {"weights": checksum(network.state_dict()), **facts}
            print(words, json.dumps(table[words], indent=1), flush=True)
    arguments.result.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
