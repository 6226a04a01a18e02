"""Overlap of two label maps: every count of every label comes from one joint histogram, one pass over the voxels.

The histogram H has H[i, j] = number of voxels that the reference calls label i and the prediction label j. Dice, IoU,
volumes, and the counts of regions made of several labels are all sums of its entries, so that fourteen labels cost the
same as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GridMismatchError, LabelError
from medseg.types import LabelXYZ

SLAB_VOXELS = 1 << 18  # 256 Ki voxels: the temporary codes stay in the cache, and memory does not grow with the volume


@dataclass(frozen=True)
class OverlapCounts:
    """Voxel counts of one label, or of one region of several labels, in one case.

    Args:
        reference: voxels in the reference.
        prediction: voxels in the prediction.
        both: voxels in both.
    """

    reference: int
    prediction: int
    both: int

    @property
    def absent(self) -> str | None:
        """Why a ratio of this label needs care: which side holds no voxel of it; None when both do."""
        if self.reference == 0 and self.prediction == 0:
            return "label absent from reference and prediction"
        if self.reference == 0:
            return "label absent from reference"
        if self.prediction == 0:
            return "label absent from prediction"
        return None


def joint_histogram(
    reference: LabelXYZ, prediction: LabelXYZ, labels: Sequence[int], *, ignore_label: int | None = None
) -> NDArray[np.int64]:
    """Count every pair of values (reference, prediction) in one pass.

    Args:
        reference: integer label map of any shape, ground truth.
        prediction: integer label map on the same grid.
        labels: the values to count, each once; the order is that of the axes of the result.
        ignore_label: voxels where the reference holds this value are counted nowhere.

    Returns:
        (len(labels), len(labels)) counts; entry [i, j] is the number of voxels with labels[i] in the reference and
        labels[j] in the prediction.

    Raises:
        GridMismatchError: the maps differ in shape.
        LabelError: a map holds a value that is not in `labels`.

    Example:
        >>> joint_histogram(np.array([0, 1, 1]), np.array([0, 0, 1]), [0, 1]).tolist()
        [[1, 0], [1, 1]]
    """
    if reference.shape != prediction.shape:
        raise GridMismatchError(
            f"reference has shape {reference.shape} and prediction {prediction.shape}; both must lie on one grid"
        )
    # one more row and column, last: values that are not listed (and, in the reference, those to ignore)
    codes, size = {label: i for i, label in enumerate(labels)}, len(labels) + 1
    counted = {label: place for label, place in codes.items() if label != ignore_label}  # also where it is listed
    code_reference, code_prediction = _Encoder(reference, counted, size - 1), _Encoder(prediction, codes, size - 1)
    flat_reference, flat_prediction = np.ravel(reference, order="K"), np.ravel(prediction, order="K")
    if not _same_memory_order(reference, prediction):
        flat_reference, flat_prediction = reference.ravel(), prediction.ravel()
    counts = np.zeros(size * size, dtype=np.int64)
    for start in range(0, flat_reference.size, SLAB_VOXELS):
        rows = code_reference(flat_reference[start : start + SLAB_VOXELS])
        columns = code_prediction(flat_prediction[start : start + SLAB_VOXELS])
        counts += np.bincount(rows * np.intp(size) + columns, minlength=size * size)
    table = counts.reshape(size, size)
    _refuse_unlisted(table, reference, prediction, labels, ignore_label)
    return table[:-1, :-1].copy()


def label_counts(histogram: NDArray[np.int64], members: Sequence[int]) -> OverlapCounts:
    """Counts of a region: the union of the labels at these positions of the histogram (one position: a plain label)."""
    rows = histogram[list(members)]
    return OverlapCounts(
        reference=int(rows.sum()),
        prediction=int(histogram[:, list(members)].sum()),
        both=int(rows[:, list(members)].sum()),
    )


def dice(counts: OverlapCounts) -> float:
    """Dice coefficient, 2|A and B| / (|A| + |B|), in [0, 1]; 0.0 when one side is empty, NaN when both are.

    Example:
        >>> dice(OverlapCounts(reference=3, prediction=1, both=1))
        0.5
    """
    total = counts.reference + counts.prediction
    return 2.0 * counts.both / total if total else math.nan


def iou(counts: OverlapCounts) -> float:
    """Intersection over union (Jaccard index), in [0, 1]; 0.0 when one side is empty, NaN when both are."""
    union = counts.reference + counts.prediction - counts.both
    return counts.both / union if union else math.nan


def relative_volume_error(counts: OverlapCounts) -> float:
    """(predicted - true) / true volume, signed; NaN when the reference is empty, since nothing can be divided by."""
    return (counts.prediction - counts.reference) / counts.reference if counts.reference else math.nan


def _same_memory_order(a: LabelXYZ, b: LabelXYZ) -> bool:
    return (a.flags.c_contiguous and b.flags.c_contiguous) or (a.flags.f_contiguous and b.flags.f_contiguous)


class _Encoder:
    """Turns values of one map into positions in `labels`; unlisted values get a position of their own."""

    def __init__(self, array: LabelXYZ, codes: dict[int, int], unlisted: int) -> None:
        if array.dtype.kind not in "biu":
            raise LabelError(f"label maps hold integers, this one holds {array.dtype}")
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        self.low = low
        self.identity = low >= 0 and high < len(codes) and all(codes.get(i) == i for i in range(len(codes)))
        self.unlisted = unlisted
        if high - low < 1 << 20:
            self.table = np.full(high - low + 1, self.unlisted, dtype=np.intp)
            for label, position in codes.items():
                if low <= label <= high:
                    self.table[label - low] = position
            self.values = None
        else:  # a few huge ids: no table of a gigabyte for them
            self.values = np.array(sorted(codes))
            self.table = np.array([codes[int(value)] for value in self.values], dtype=np.intp)

    def __call__(self, part: LabelXYZ) -> NDArray[np.intp]:
        if self.identity:
            return part.astype(np.intp)
        if self.values is None:
            # widened first: 100 - (-100) does not fit into int8, and booleans would select instead of index
            narrow = self.low != 0 or part.dtype.kind == "b"
            return self.table[part.astype(np.intp) - self.low] if narrow else self.table[part]
        place = np.minimum(np.searchsorted(self.values, part), len(self.values) - 1)
        return np.where(self.values[place] == part, self.table[place], self.unlisted)


def _refuse_unlisted(
    table: NDArray[np.int64], reference: LabelXYZ, prediction: LabelXYZ, labels: Sequence[int], ignore_label: int | None
) -> None:
    """Values outside `labels` are an error; the ignored value of the reference sits in the last row and is none."""
    unlisted_reference = int(table[-1].sum())
    if ignore_label is not None:
        unlisted_reference -= int((reference == ignore_label).sum())
    if unlisted_reference or table[:-1, -1].any():
        side, array = ("reference", reference) if unlisted_reference else ("prediction", prediction)
        found = sorted({int(v) for v in np.unique(array)} - set(labels) - {ignore_label})
        raise LabelError(
            f"the {side} holds the values {found[:10]}, which are not among the labels {list(labels)[:40]}. "
            "Add them to the labels, or correct the file."
        )
