"""What can be measured of a case without its reference: of its label map, of the network's sums, of its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.io.geometry import spacing_of
from medseg.types import Affine

SAMPLES = 100_000  # voxels of an image that are looked at
QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class LabelEvidence:
    """One label of one case.

    Args:
        volume_ml: of the label map, after post-processing.
        overlap: 2 sum(p in mask) / (|mask| + sum p), the Dice that the network itself expects.
        doubt: sum of p (1 - p) over voxels^(2/3): unsure voxels for the size of the surface.
        agreement: pairwise Dice of members or mirror images; NaN where there is one pass.
        pieces: connected components (through faces, edges or corners).
        border: share of the label's voxels on the array's faces.
    """

    volume_ml: float
    overlap: float
    doubt: float
    agreement: float
    pieces: int
    border: float


@dataclass(frozen=True)
class CaseEvidence:
    """What is known of one case: per label, and of its image (`image_facts`)."""

    labels: Mapping[int, LabelEvidence]
    image: Mapping[str, float]


def label_evidence(
    label: NDArray[np.integer], affine: Affine, values: Sequence[int], sums: Mapping[str, NDArray[np.float64]]
) -> dict[int, LabelEvidence]:
    """Evidence of each label.

    Args:
        label: (X, Y, Z) as it is written.
        affine: of its grid.
        values: label of each output of the network, in order; 0 is left out.
        sums: `Predictor.confidence`.
    """
    largest = max(values)
    boxes = ndimage.find_objects(label, max_label=largest)
    voxel_ml = float(np.prod(spacing_of(affine))) / 1000.0
    found = {}
    agreement = sums.get("agreement", np.zeros(0))
    for output, value in enumerate(values):
        if value == 0:
            continue
        size, inside, total = (float(sums[name][output]) for name in ("size", "inside", "total"))
        voxels, pieces, border = _shape(label, value, boxes[value - 1] if value else None)
        found[value] = LabelEvidence(
            voxels * voxel_ml,
            2 * inside / (size + total) if size + total > 0 else 0.0,
            float(sums["doubt"][output]) / max(size, 1.0) ** (2 / 3),
            float(agreement[output]) if len(agreement) else float("nan"),
            pieces,
            border,
        )
    return found


def _shape(label: NDArray[np.integer], value: int, box: tuple[slice, ...] | None) -> tuple[int, int, float]:
    """Voxels, components, and the share of voxels on the array's faces."""
    if box is None:
        return 0, 0, 0.0
    mask = label[box] == value
    voxels = int(np.count_nonzero(mask))
    _, pieces = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    faces = 0
    for axis, side in enumerate(box):
        for touches, plane in ((side.start == 0, 0), (side.stop == label.shape[axis], -1)):
            faces += int(np.count_nonzero(mask.take(plane, axis=axis))) if touches else 0
    return voxels, int(pieces), faces / max(voxels, 1)


def image_facts(image: NDArray[np.float32]) -> dict[str, float]:
    """Numbers of the normalised image (C, X, Y, Z) that noise, blur, motion and other contrasts move.

    Quantiles, and per axis the mean step between neighbours: large in noise, small in a blurred or thick image.
    """
    facts = {}
    for channel, values in enumerate(image):
        step = max(1, round((values.size / SAMPLES) ** (1 / 3)))
        few = values[::step, ::step, ::step]
        for quantile, found in zip(QUANTILES, np.percentile(few, QUANTILES), strict=True):
            facts[f"channel {channel}: quantile {quantile}"] = float(found)
        for axis in range(3):
            if values.shape[axis] < 2:
                continue
            ahead = [slice(None, -1, step) if other == axis else slice(None, None, step) for other in range(3)]
            behind = [slice(1, None, step) if other == axis else slice(None, None, step) for other in range(3)]
            change = np.abs(values[tuple(behind)] - values[tuple(ahead)])
            facts[f"channel {channel}: steps along {'xyz'[axis]}"] = float(np.mean(change))
    return facts
