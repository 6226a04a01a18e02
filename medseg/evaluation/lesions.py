"""Lesion-wise detection: how many separate findings of a label were found, missed, or made up.

Definition, printed with every result. A lesion is a component of the label connected through faces, edges or corners
(26 neighbours in 3D). A reference lesion is detected when at least the share `min_overlap` of its voxels carries the
label in the prediction; a predicted lesion is a false positive when less than that share of its own voxels carries the
label in the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.types import MaskXYZ

MIN_OVERLAP = 0.1  # a tenth: a single touching voxel is no detection, and half would ask for a good outline as well
DEFINITION = (
    "lesion = component connected through faces, edges or corners; detected when at least the stated share of its "
    "voxels is predicted; a predicted lesion with a smaller share of its own voxels in the reference is a false positive"
)


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one label in one case.

    Args:
        reference: lesions in the reference.
        prediction: lesions in the prediction.
        detected: reference lesions that were found.
        false_positives: predicted lesions that match nothing.
    """

    reference: int
    prediction: int
    detected: int
    false_positives: int

    @property
    def sensitivity(self) -> float:
        """Detected share of the reference's lesions; NaN when it has none."""
        return self.detected / self.reference if self.reference else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are true; NaN when none was predicted."""
        return (self.prediction - self.false_positives) / self.prediction if self.prediction else math.nan

    @property
    def f1(self) -> float:
        """2 x detected / (2 x detected + false positives + missed); NaN when there is no lesion on either side."""
        total = self.detected + self.reference + self.false_positives
        return 2.0 * self.detected / total if total else math.nan


def count_lesions(reference: MaskXYZ, prediction: MaskXYZ, *, min_overlap: float = MIN_OVERLAP) -> LesionCounts:
    """Count detected, missed and false lesions of one label.

    Args:
        reference: boolean (X, Y, Z), ground truth.
        prediction: boolean, on the same grid.
        min_overlap: share of a lesion's voxels, in (0, 1], that makes a match.

    Example:
        >>> truth, found = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> truth[1:3, 1:3, 1:3] = truth[6:8, 6:8, 6:8] = found[1:3, 1:3, 1:3] = True
        >>> count_lesions(truth, found)
        LesionCounts(reference=2, prediction=1, detected=1, false_positives=0)
    """
    box = _union_box(reference, prediction)
    if box is None:
        return LesionCounts(0, 0, 0, 0)
    reference, prediction = reference[box], prediction[box]
    shares_reference = _overlap_shares(reference, prediction)
    shares_prediction = _overlap_shares(prediction, reference)
    return LesionCounts(
        reference=len(shares_reference),
        prediction=len(shares_prediction),
        detected=int((shares_reference >= min_overlap).sum()),
        false_positives=int((shares_prediction < min_overlap).sum()),
    )


def _union_box(a: MaskXYZ, b: MaskXYZ) -> tuple[slice, ...] | None:
    union = a | b
    if not union.any():
        return None
    (box,) = ndimage.find_objects(union.view(np.uint8))
    return tuple(box)


def _overlap_shares(mask: MaskXYZ, other: MaskXYZ) -> NDArray[np.float64]:
    """For each component of `mask`, the share of its voxels that also lies in `other`."""
    components, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(components[other], minlength=count + 1)[1:]
    return np.asarray(hits / np.maximum(sizes, 1), dtype=np.float64)
