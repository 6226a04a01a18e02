"""The network's grid: two or three dimensions, which axes, and how many mm per voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import ConfigError

from .fingerprint import Fingerprint

# An axis is coarse when its spacing is this many times the finest (the rule of nnU-Net, Isensee et al. 2021).
ANISOTROPY = 3.0
# Slices this many times thicker than their pixels stay apart in a network that halves the grid three times: after that the
# pixels are as long as the slices are thick, and nothing is left to be learnt across slices. Then 2D is planned.
TOO_THICK = 8.0
# An axis with fewer slices than this cannot be halved at all; the crops of a volume network would be padding for the most part.
FEWEST_SLICES = 8
# The low-resolution network's crop covers at least this share of the median case.
LOW_RESOLUTION_COVERS = 0.5


@dataclass(frozen=True)
class Grid:
    """What the network sees of the median case.

    Args:
        orientation: axis codes.
        spacing: mm per voxel; in 2D the last one is the median case's own and slices are not resampled.
        shape: voxels of the median case.
    """

    orientation: str
    spacing: list[float]
    shape: list[float]


def choose_dimensions(fingerprint: Fingerprint, wanted: int | None = None) -> tuple[int, str]:
    """2 where slices are too thick for a volume network, else 3.

    Args:
        fingerprint: of the dataset.
        wanted: 2 or 3 as asked for, or None to decide.

    Raises:
        ConfigError: neither 2 nor 3.
    """
    if wanted is not None:
        if wanted not in (2, 3):
            raise ConfigError(f"{wanted} dimensions were asked for; expected 2 or 3")
        return wanted, "asked for"
    spacing, shape = fingerprint.median_spacing, fingerprint.median_shape
    axis = slice_axis(fingerprint)
    if _is_flat(shape, axis):
        few = "single slices" if shape[axis] < 1.5 else f"{shape[axis]:.3g} slices"
        return (
            2,
            f"the median case has {few} along {'RAS'[axis]}: too few to be halved, a volume network would see padding",
        )
    ratio = spacing[axis] / min(spacing)
    found = f"slices of {spacing[axis]:.3g} mm are {ratio:.1f} times as thick as their pixels"
    if ratio >= TOO_THICK:
        return 2, f"{found}: from {TOO_THICK:g} times on, neighbouring slices tell a volume network next to nothing"
    if ratio > ANISOTROPY and shape[axis] < FEWEST_SLICES:
        return 2, f"{found}, and the median case has only {shape[axis]:.0f} of them"
    return 3, f"{found}: thin enough for a volume network"


def slice_axis(fingerprint: Fingerprint) -> int:
    """The axis (of R, A, S) that is left out of a network of slices: the one with hardly any, else the thickest."""
    shape, spacing = fingerprint.median_shape, fingerprint.median_spacing
    thinnest = min(range(3), key=lambda axis: shape[axis])
    return thinnest if _is_flat(shape, thinnest) else max(range(3), key=lambda axis: spacing[axis])


def _is_flat(shape: Sequence[float], axis: int) -> bool:
    """Whether there are too few slices along an axis to halve them, and more voxels along the others."""
    others = [extent for index, extent in enumerate(shape) if index != axis]
    return shape[axis] < FEWEST_SLICES and min(others) >= 2 * shape[axis]


def choose_spacing(fingerprint: Fingerprint) -> tuple[list[float], str]:
    """Median spacing; for a coarse axis the 10th percentile, so that fine cases keep their slices."""
    spacing = list(fingerprint.median_spacing)
    finest = min(spacing)
    coarse = [axis for axis in range(len(spacing)) if spacing[axis] > ANISOTROPY * finest]
    for axis in coarse:
        others = min(value for index, value in enumerate(spacing) if index != axis)
        spacing[axis] = max(fingerprint.spacing_p10[axis], others)
    rounded = [_rounded(value) for value in spacing]
    if coarse:
        names = ", ".join("XYZ"[axis] for axis in coarse)
        return (
            rounded,
            f"the median spacing of {fingerprint.cases} cases; the 10th percentile along the coarse axis {names}",
        )
    return rounded, f"the median spacing of {fingerprint.cases} cases (R, A, S order, mm)"


def choose_grid(fingerprint: Fingerprint, spatial_dims: int) -> tuple[Grid, str]:
    """Axes, spacing and the median case's shape, with the reason for the spacing."""
    spacing, why = choose_spacing(fingerprint)
    if spatial_dims == 3:
        return Grid("RAS", spacing, _shape_at(fingerprint, spacing)), why
    thick = slice_axis(fingerprint)
    order = [axis for axis in range(3) if axis != thick] + [thick]
    spacing[thick] = _rounded(fingerprint.median_spacing[thick])
    shape = _shape_at(fingerprint, spacing)
    letters = "".join("RAS"[axis] for axis in order)
    grid = Grid(letters, [spacing[axis] for axis in order], [shape[axis] for axis in order])
    return grid, f"{why}; slices (along {letters[2]}) keep the thickness that each case has"


def coarser_grid(grid: Grid, crop_voxels: float, *, covers: float = LOW_RESOLUTION_COVERS) -> Grid:
    """The grid on which a crop of so many voxels covers a share of the median case; the finest axes are coarsened first."""
    spacing = list(grid.spacing)

    def voxels() -> float:
        return math.prod(n * old / new for n, old, new in zip(grid.shape, grid.spacing, spacing, strict=True))

    while voxels() * covers > crop_voxels:
        finest = min(spacing)
        spacing = [step * 1.05 if step < 1.5 * finest else step for step in spacing]
    spacing = [_rounded(step, 3) for step in spacing]
    shape = [n * old / new for n, old, new in zip(grid.shape, grid.spacing, spacing, strict=True)]
    return Grid(grid.orientation, spacing, shape)


def _rounded(step: float, decimals: int = 4) -> float:
    """A spacing for people: a few decimals, and as many digits where it is small (microscopy, metres written for mm)."""
    return round(step, decimals if step >= 0.1 else decimals - 1 - math.floor(math.log10(step)))


def _shape_at(fingerprint: Fingerprint, spacing: Sequence[float]) -> list[float]:
    old = zip(fingerprint.median_shape, fingerprint.median_spacing, spacing, strict=True)
    return [extent * before / after for extent, before, after in old]
