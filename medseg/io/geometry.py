"""Affines and grids: spacing, orientation, sameness, resampling.

An affine is 4x4, float64, and maps voxel indices to world millimetres, RAS+. Everything here is plain numpy; the one
function that resamples imports scipy when it is called.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, GridMismatchError
from medseg.renamed import names_that_left
from medseg.types import Affine, Grid

if TYPE_CHECKING:
    pass

SHEAR_LIMIT = (
    5e-3  # cosine between two axes; float32 headers reach 1e-6, hand-rounded ones 1e-3, a 1 degree tilt 1.7e-2
)
GRID_TOLERANCE = 0.05  # share of the smallest spacing by which two grids' corners may differ and still be "the same"


class HasGrid(Protocol):
    """Anything that lies on a voxel grid: a `Volume` or a `Header`."""

    @property
    def grid(self) -> Grid:
        """Voxels along X, Y, Z."""

    @property
    def affine(self) -> Affine:
        """Voxel index -> world mm, RAS+."""


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Millimetres per voxel along the three array axes.

    Example:
        >>> spacing_of(np.diag([-2.0, 1.0, 3.0, 1.0]))
        (2.0, 1.0, 3.0)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an absurd affine has an infinite spacing, which callers refuse
        x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def orientation_of(affine: Affine) -> str:
    """The anatomical direction in which each array axis grows, such as "RAS" or "LPS".

    An oblique axis gets the letter of the world axis it is assigned to; no two array axes share one, for which the
    assignment with the largest total overlap is taken.

    Example:
        >>> orientation_of(np.diag([-1.0, -1.0, 3.0, 1.0]))
        'LPS'
    """
    directions = np.asarray(affine, dtype=np.float64)[:3, :3] / np.asarray(spacing_of(affine))
    best = max(_PERMUTATIONS, key=lambda worlds: float(sum(abs(directions[w, a]) for a, w in enumerate(worlds))))
    return "".join(_LETTERS[world][int(directions[world, axis] > 0)] for axis, world in enumerate(best))


_LETTERS = ("LR", "PA", "IS")  # per world axis: letter when the index grows down it, up it
_PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def check_affine(affine: Affine, path: str | Path, *, allow_shear: bool = False) -> None:
    """Refuse an affine that cannot place voxels in a patient.

    Args:
        affine: (4, 4).
        path: the file it came from, for the message.
        allow_shear: accept axes that are not at right angles (a registration result); the voxels keep their place.

    Raises:
        GeometryError: NaN or infinite entries, a last row other than 0 0 0 1, a singular matrix, or shear.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise GeometryError(f"{path}: the affine has shape {affine.shape}, expected (4, 4).")
    if not np.isfinite(affine).all():
        raise GeometryError(f"{path}: the affine holds NaN or infinite entries; set it again from the source images.")
    if not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
        raise GeometryError(f"{path}: the affine's last row is {affine[3].tolist()}, expected [0, 0, 0, 1].")
    spacing = spacing_of(affine)
    if min(spacing) <= 0 or max(spacing) > 1e6:
        raise GeometryError(
            f"{path}: the affine gives spacing {spacing} mm, which no scanner has (singular or absurd); "
            "set it again from the source images."
        )
    with np.errstate(over="ignore"):
        directions = affine[:3, :3] / np.asarray(spacing)
    if abs(np.linalg.det(directions)) < 1e-3:
        raise GeometryError(
            f"{path}: the affine is singular (two voxel axes point the same way): {affine[:3, :3].tolist()}; "
            "set it again from the source images."
        )
    shear = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if shear > SHEAR_LIMIT and not allow_shear:
        raise GeometryError(
            f"{path}: the affine is sheared: voxel axes are {np.degrees(np.arcsin(min(shear, 1.0))):.2f} degrees away "
            "from right angles (a tilted gantry or a 12-parameter registration). Resample it to a straight grid: "
            f"python -m medseg.io.straighten {shlex.quote(str(path))} STRAIGHT.nii.gz (--label for a label map)."
        )


def corners_of(volume: HasGrid) -> NDArray[np.float64]:
    """World position in mm, (8, 3), of the centres of the eight corner voxels."""
    last = np.asarray(volume.grid, dtype=np.float64) - 1
    index = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * last
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def grid_difference(a: HasGrid, b: HasGrid, *, tolerance: float = GRID_TOLERANCE) -> str | None:
    """What tells two grids apart, in words, or None when they are the same.

    Args:
        a, b: volumes or headers.
        tolerance: largest distance between equal corners, as a share of the smallest spacing.
    """
    if tuple(a.grid) != tuple(b.grid):
        return f"shape {tuple(a.grid)} vs {tuple(b.grid)}"
    smallest = min(*spacing_of(a.affine), *spacing_of(b.affine))
    distance = float(np.abs(corners_of(a) - corners_of(b)).max())
    if distance <= tolerance * smallest:
        return None
    if not np.allclose(spacing_of(a.affine), spacing_of(b.affine), rtol=1e-3):
        return f"spacing {_round(spacing_of(a.affine))} vs {_round(spacing_of(b.affine))} mm"
    if orientation_of(a.affine) != orientation_of(b.affine):
        return f"orientation {orientation_of(a.affine)} vs {orientation_of(b.affine)}"
    return f"equal shape and spacing, but corners up to {distance:.3g} mm apart"


def same_grid(a: HasGrid, b: HasGrid, *, tolerance: float = GRID_TOLERANCE) -> bool:
    """Whether voxel (i, j, k) is the same place in both: equal shape, corners within a share of a voxel."""
    return grid_difference(a, b, tolerance=tolerance) is None


def check_same_grid(image: HasGrid, label: HasGrid, *, whose: str, tolerance: float = GRID_TOLERANCE) -> None:
    """Stop when two volumes that must share a grid do not.

    Args:
        image, label: volumes or headers.
        whose: begins the message: the files or the case.
        tolerance: as in `grid_difference`.

    Raises:
        GridMismatchError: with what differs and the way out.
    """
    difference = grid_difference(image, label, tolerance=tolerance)
    if difference:
        raise GridMismatchError(
            f"{whose}: image and label lie on different grids: {difference}. Resample the label first: "
            "medseg.io.resample.resample_to_grid(label, like=image, mode='nearest')."
        )


def _round(spacing: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in spacing)


# names that left this module are found where they are now
__getattr__ = names_that_left(__name__)
