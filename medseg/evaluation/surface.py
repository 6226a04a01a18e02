"""Distances between the surfaces of two label maps: HD95, average surface distance, surface Dice at a tolerance.

Definition, printed with every result. The surface of a label is the set of its voxels that have at least one of the six
face neighbours outside the label; the border of the volume counts as outside; axes of length 1 have no neighbours (a
single slice has an outline, not two lids). A distance is the one between voxel centres in millimetres. This is the
definition of MONAI and medpy; tools that weight sub-voxel surface elements by their area give other numbers.

The surfaces of all labels are found in one pass over the voxels. Distances come from a KD-tree, or from a distance
transform of the label's own box where that is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from medseg.errors import GridMismatchError
from medseg.types import LabelXYZ, MaskXYZ, Spacing

DEFINITION = (
    "surface = voxels of the label with a face neighbour outside it (the volume's border counts as outside); "
    "distances between voxel centres in mm; hd95 = the larger of the two directed 95th percentiles; "
    "asd = mean over both surfaces pooled; nsd = share of both surfaces within the tolerance of the other"
)

# Cost of one KD-tree query against one voxel of a distance transform, measured on x86-64 with scipy 1.15: 1.6 us / 0.12 us.
QUERY_IN_VOXELS = 13

# Spacings are float32 in most headers (6e-8 of themselves) and a rotated affine adds a few such errors; no voxel is so small.
ROUNDING = 1e-5


@dataclass(frozen=True)
class SurfaceDistances:
    """Nearest distances, in mm, from each surface voxel of one map to the surface of the other.

    Args:
        from_reference: one value per surface voxel of the reference; empty when a side has no voxel.
        from_prediction: one value per surface voxel of the prediction; empty when a side has no voxel.
        num_reference: surface voxels of the reference (also counted when the prediction is empty).
        num_prediction: surface voxels of the prediction.
    """

    from_reference: NDArray[np.float64]
    from_prediction: NDArray[np.float64]
    num_reference: int
    num_prediction: int


def surface_distances(reference: MaskXYZ, prediction: MaskXYZ, *, spacing: Spacing) -> SurfaceDistances:
    """Distances between the surfaces of two boolean masks (X, Y, Z) on one grid; `spacing` in mm per voxel.

    Example:
        >>> left, right = np.zeros((2, 9, 9, 9), dtype=bool)
        >>> left[2, 4, 4] = right[5, 4, 4] = True
        >>> surface_distances(left, right, spacing=(2, 1, 1)).from_reference.tolist()
        [6.0]
    """
    found = label_surface_distances(reference.astype(np.uint8), prediction.astype(np.uint8), [1], spacing=spacing)
    return found[1]


def label_surface_distances(
    reference: LabelXYZ, prediction: LabelXYZ, labels: Sequence[int], *, spacing: Spacing
) -> dict[int, SurfaceDistances]:
    """Distances between the surfaces of each label of two label maps.

    Args:
        reference: integer (X, Y, Z) or (X, Y), ground truth.
        prediction: integer, on the same grid.
        labels: values to look at; 0 is allowed (the surface of the background).
        spacing: mm per voxel, one number per axis.

    Raises:
        GridMismatchError: the maps differ in shape, or `spacing` has another number of axes.
    """
    if reference.shape != prediction.shape or len(spacing) != reference.ndim:
        raise GridMismatchError(
            f"reference has shape {reference.shape}, prediction {prediction.shape}, spacing {len(spacing)} numbers; "
            "all three must describe one grid"
        )
    if reference.flags.f_contiguous and prediction.flags.f_contiguous:  # as files give them; spares a copy
        reference, prediction, spacing = reference.T, prediction.T, tuple(spacing)[::-1]
    grid = reference.shape
    surfaces = [_surface_by_label(array, labels) for array in (reference, prediction)]
    step = np.asarray(spacing, dtype=np.float64)
    return {label: _distances(surfaces[0][label], surfaces[1][label], grid, step) for label in labels}


def hausdorff_distance(distances: SurfaceDistances, *, percentile: float = 95.0) -> float:
    """Larger of the two directed percentiles of the distances, in mm; NaN when a side is empty."""
    if not len(distances.from_reference):
        return math.nan
    pair = (distances.from_reference, distances.from_prediction)
    return float(max(np.percentile(values, percentile) for values in pair))


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Mean distance over the voxels of both surfaces together, in mm; NaN when a side is empty."""
    count = len(distances.from_reference) + len(distances.from_prediction)
    return float(distances.from_reference.sum() + distances.from_prediction.sum()) / count if count else math.nan


def surface_dice(distances: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Share of both surfaces that lie within a tolerance of each other, in [0, 1].

    A distance that exceeds the tolerance by rounding alone lies within it: three voxels of 0.1 mm are 0.3 mm.

    0.0 when one side is empty, NaN when both are. Every boundary voxel counts the same.

    Source: Nikolov et al. 2021, normalised surface Dice, with boundary voxels instead of weighted surface elements.
    """
    total = distances.num_reference + distances.num_prediction
    if not total:
        return math.nan
    reach = tolerance_mm * (1 + ROUNDING)
    pair = (distances.from_reference, distances.from_prediction)
    return sum(int(np.count_nonzero(values <= reach)) for values in pair) / total


def _surface_by_label(array: LabelXYZ, labels: Sequence[int]) -> dict[int, NDArray[np.intp]]:
    """Flat C-order positions, ascending, of the surface voxels of each label."""
    array = np.ascontiguousarray(array)
    edge = np.zeros(array.shape, dtype=bool)
    for axis, length in enumerate(array.shape):
        if length == 1:
            continue
        lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(array.ndim))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(array.ndim))
        differs = array[lower] != array[upper]
        edge[lower] |= differs
        edge[upper] |= differs
        for border in (0, -1):
            edge[tuple(border if a == axis else slice(None) for a in range(array.ndim))] = True
    if all(length == 1 for length in array.shape):
        edge[...] = True
    wanted = set(labels)
    if 0 not in wanted:  # the background's border, the largest surface of all, is of no use
        edge &= array != 0
    positions = np.flatnonzero(edge)
    values = array.ravel()[positions]
    order = np.argsort(values, kind="stable")
    positions, values = positions[order], values[order]
    starts = {label: np.searchsorted(values, [label, label + 1]) for label in wanted}
    return {label: positions[first:last] for label, (first, last) in starts.items()}


def _distances(
    reference: NDArray[np.intp], prediction: NDArray[np.intp], grid: tuple[int, ...], step: NDArray[np.float64]
) -> SurfaceDistances:
    sizes = (len(reference), len(prediction))
    if not all(sizes):
        nothing = np.zeros(0)
        return SurfaceDistances(nothing, nothing, *sizes)
    points = [np.stack(np.unravel_index(flat, grid), axis=1) for flat in (reference, prediction)]
    low = np.minimum(points[0].min(0), points[1].min(0))
    box = np.maximum(points[0].max(0), points[1].max(0)) - low + 1
    # a voxel on both surfaces has distance 0: no search for it, and a good prediction shares most of them
    alone = [~np.isin(a, b, assume_unique=True) for a, b in ((reference, prediction), (prediction, reference))]
    queries = int(alone[0].sum() + alone[1].sum())
    if queries * QUERY_IN_VOXELS + sum(sizes) > 2 * int(np.prod(box)):
        found = [_by_transform(points[1 - i] - low, points[i] - low, box, step) for i in (0, 1)]
    else:
        found = [_by_tree(points[1 - i] * step, points[i] * step, alone[i]) for i in (0, 1)]
    return SurfaceDistances(found[0], found[1], *sizes)


def _by_tree(
    targets: NDArray[np.float64], points: NDArray[np.float64], alone: NDArray[np.bool_]
) -> NDArray[np.float64]:
    distances = np.zeros(len(points))
    if alone.any():
        tree = cKDTree(targets, balanced_tree=False, compact_nodes=False)
        distances[alone] = tree.query(points[alone])[0]
    return distances


def _by_transform(
    targets: NDArray[np.intp], points: NDArray[np.intp], box: NDArray[np.intp], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    outside = np.ones(tuple(box), dtype=bool)
    outside[tuple(targets.T)] = False
    field = np.asarray(distance_transform_edt(outside, sampling=step))
    return np.asarray(field[tuple(points.T)], dtype=np.float64)
