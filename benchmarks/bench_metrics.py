"""HD95 + NSD and Dice of 14 labels on 256 x 256 x 128 voxels, against MONAI. One thread; refuses to time unequal values.

Run: python benchmarks/bench_metrics.py [--rounds 5]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from contest import interleave, ratio, save
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from medseg.evaluation import overlap, surface

SHAPE, LABELS, SPACING, TOLERANCE = (256, 256, 128), range(1, 15), (1.5, 1.5, 2.0), 2.0


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fourteen overlapping balls, and the same moved by (2, 1, 1) voxels."""
    generator = np.random.default_rng(seed)
    reference = np.zeros(SHAPE, dtype=np.uint8)
    axes = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    for label in LABELS:
        center, radius = generator.uniform((40, 40, 30), (216, 216, 98)), generator.uniform(12, 38)
        reference[sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < radius**2] = label
    return reference, np.roll(reference, (2, 1, 1), (0, 1, 2))


def our_surfaces(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    found = surface.label_surface_distances(reference, prediction, list(LABELS), spacing=SPACING)
    rows = [
        (surface.hausdorff_distance(found[k]), surface.surface_dice(found[k], tolerance_mm=TOLERANCE)) for k in LABELS
    ]
    return np.array(rows)


Maps = tuple[torch.Tensor, torch.Tensor]  # prediction and reference as MONAI wants them


def one_hot(array: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(array) == label for label in range(15)])[None].to(torch.uint8)


def monai_surfaces(maps: Maps) -> np.ndarray:
    hd95 = compute_hausdorff_distance(*maps, percentile=95, spacing=SPACING)[0]
    nsd = compute_surface_dice(*maps, [TOLERANCE] * 14, spacing=SPACING)[0]
    return torch.stack([hd95, nsd], dim=1).numpy()


def our_dice(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    table = overlap.joint_histogram(reference, prediction, range(15))
    return np.array([overlap.dice(overlap.label_counts(table, [k])) for k in LABELS])


def monai_dice(maps: Maps) -> np.ndarray:
    return compute_dice(*maps, include_background=False)[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference, prediction = scene()
    maps = one_hot(prediction), one_hot(reference)
    surface_gap = float(np.abs(our_surfaces(reference, prediction) - monai_surfaces(maps)).max())
    dice_gap = float(np.abs(our_dice(reference, prediction) - monai_dice(maps)).max())
    if surface_gap > 1e-3 or dice_gap > 1e-6:
        raise SystemExit(f"values differ by {surface_gap} (surfaces) and {dice_gap} (Dice): nothing is timed")
    times = interleave(
        {
            "medseg HD95 + NSD": lambda: our_surfaces(reference, prediction),
            "MONAI HD95 + NSD, one-hot maps given": lambda: monai_surfaces(maps),
            "medseg Dice": lambda: our_dice(reference, prediction),
            "MONAI Dice, one-hot maps given": lambda: monai_dice(maps),
            "MONAI Dice, with making the one-hot maps": lambda: monai_dice((one_hot(prediction), one_hot(reference))),
        },
        rounds=arguments.rounds,
    )
    save(
        "metrics",
        {
            "scene": f"{SHAPE} voxels, 14 labels, spacing {SPACING} mm, tolerance {TOLERANCE} mm, one thread",
            "largest_difference": {"hd95_mm_or_nsd": surface_gap, "dice": dice_gap},
            "times": times,
            "times_faster": {
                "hd95_and_nsd": ratio(times, "MONAI HD95 + NSD, one-hot maps given", "medseg HD95 + NSD"),
                "dice_from_label_maps": ratio(times, "MONAI Dice, with making the one-hot maps", "medseg Dice"),
                "dice_one_hot_given": ratio(times, "MONAI Dice, one-hot maps given", "medseg Dice"),
            },
        },
    )


if __name__ == "__main__":
    main()
