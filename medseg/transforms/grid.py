"""Which voxel of the network's grid is which voxel of the source grid: one small value, used in both directions.

The way in is: put the axes in the network's order (closest axes, so an oblique volume stays oblique), cut a box, resample.
Resampling aligns the outer edges of both grids: network index t lies at (t + 1/2) * extent / shape - 1/2, so nothing of
the source is lost at a border, and the way back is the same formula turned round. nnU-Net's grids are built alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.types import Affine

# letter -> (world axis, direction): world is RAS+ in mm
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def closest_axes(affine: Affine, orientation: str = "RAS") -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The permutation and flips that bring an array closest to an orientation.

    Args:
        affine: (4, 4) voxel index -> world mm, RAS+.
        orientation: three letters, one of each of R/L, A/P, S/I.

    Returns:
        `axes` (array axis that becomes axis 0, 1, 2) and `flips` (whether the new axis 0, 1, 2 runs backwards).

    Raises:
        GeometryError: the affine is singular or not finite, or the orientation names an axis twice.

    Example:
        >>> closest_axes(np.diag([-1.0, -1.0, 2.0, 1.0]))
        ((0, 1, 2), (True, True, False))
    """
    wanted = [_LETTERS.get(letter, (-1, 0)) for letter in orientation.upper()]
    if sorted(axis for axis, _ in wanted) != [0, 1, 2]:
        raise GeometryError(f"orientation {orientation!r}: expected one letter each of R/L, A/P and S/I, such as RAS")
    directions = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0 or abs(np.linalg.det(directions / lengths)) < 1e-6:
        raise GeometryError(f"the affine is singular or not finite, voxels have no place in space: {affine.tolist()}")
    cosines = directions / lengths
    world = [axis for axis, _ in wanted]
    axes = max(itertools.permutations(range(3)), key=lambda p: sum(abs(cosines[world[i], p[i]]) for i in range(3)))
    flips = tuple(bool(cosines[world[i], axes[i]] * wanted[i][1] < 0) for i in range(3))
    return tuple(axes), flips


@dataclass(frozen=True)
class GridMap:
    """The network's grid inside the source grid.

    Args:
        source_shape: voxels of the source array, in its own axis order.
        axes: source axis of each network axis.
        flips: whether a network axis runs against its source axis.
        start: first voxel of the cut box, in turned source voxels (after `axes` and `flips`).
        extent: size of the cut box in turned source voxels.
        shape: voxels of the network's grid.
        nearest: network axes along which the way back takes the nearest voxel instead of interpolating.
    """

    source_shape: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]
    shape: tuple[int, ...]
    nearest: tuple[int, ...] = ()

    @property
    def turned_shape(self) -> tuple[int, ...]:
        """Shape of the whole source array after the axes are put in the network's order."""
        return tuple(self.source_shape[axis] for axis in self.axes)

    @property
    def identity(self) -> bool:
        """True when every network voxel is a source voxel (turned and cut at most)."""
        return self.shape == self.extent

    def turn(self, array: Any) -> Any:
        """A view of a source array (..., X, Y, Z), numpy, with the axes in the network's order."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return turned[(..., *(slice(None, None, -1 if flip else 1) for flip in self.flips))]

    def turn_back(self, array: Any) -> Any:
        """The inverse of `turn`: a view in the source's own axis order."""
        lead = array.ndim - 3
        flipped = array[(..., *(slice(None, None, -1 if flip else 1) for flip in self.flips))]
        inverse = np.argsort(self.axes)
        return flipped.transpose(*range(lead), *(lead + int(axis) for axis in inverse))

    def cut(self, array: Any) -> Any:
        """The box of a turned array that the network's grid covers, as a view."""
        box = (slice(first, first + size) for first, size in zip(self.start, self.extent, strict=True))
        return array[(..., *box)]

    def matrix(self) -> Affine:
        """(4, 4): network voxel index -> source voxel index."""
        result = np.zeros((4, 4))
        result[3, 3] = 1.0
        for axis, source in enumerate(self.axes):
            scale = self.extent[axis] / self.shape[axis]
            offset = self.start[axis] + 0.5 * scale - 0.5
            if self.flips[axis]:
                scale, offset = -scale, self.source_shape[source] - 1 - offset
            result[source, axis], result[source, 3] = scale, offset
        return result

    def to_dict(self) -> dict[str, list[Any]]:
        """JSON-ready values, for a record beside an image."""
        return {key: list(value) for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Sequence[Any]]) -> GridMap:
        """The inverse of `to_dict`."""
        whole = {key: tuple(int(v) for v in value) for key, value in values.items() if key != "flips"}
        return GridMap(flips=tuple(bool(v) for v in values["flips"]), **whole)


def box_around(mask: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """First voxel and extent per axis of the smallest box that holds all true voxels of (X, Y, Z); all of it where none is."""
    start, extent = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        first, end = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, mask.shape[axis])
        start.append(first)
        extent.append(end - first)
    return start, extent


def make_grid_map(
    source_shape: Sequence[int],
    affine: Affine,
    *,
    spacing: Sequence[float | None] | None,
    orientation: str = "RAS",
    box: tuple[Sequence[int], Sequence[int]] | None = None,
) -> GridMap:
    """The network's grid for one source grid.

    Args:
        source_shape: (X, Y, Z) of the source array.
        affine: of the source.
        spacing: wanted mm per voxel along the network's axes; None (whole or per axis) keeps the source's.
        orientation: axis codes of the network's grid.
        box: start and extent of the box to keep in turned source voxels; None keeps all.

    The network's shape is the nearest whole number of voxels, so its true spacing differs from the wanted one by at most
    half a voxel over the whole extent; an axis whose number of voxels would stay the same is not resampled at all.
    """
    axes, flips = closest_axes(affine, orientation)
    turned = tuple(int(source_shape[axis]) for axis in axes)
    if min(turned) < 1:
        raise GeometryError(f"an axis of length zero: shape {tuple(source_shape)}")
    start = tuple(int(v) for v in box[0]) if box else (0, 0, 0)
    extent = tuple(int(v) for v in box[1]) if box else turned
    lengths = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    wanted = list(spacing) if spacing is not None else [None] * 3
    if len(wanted) != 3:
        raise GeometryError(f"spacing {list(wanted)}: expected three values, mm per voxel along X, Y, Z")
    shape = []
    for axis, target in enumerate(wanted):
        factor = 1.0 if not target else float(lengths[axes[axis]]) / float(target)
        shape.append(max(1, round(extent[axis] * factor)))
    return GridMap(tuple(int(v) for v in source_shape), axes, flips, start, extent, tuple(shape))
