"""Ten ways in which a scan may differ from those that a network was trained on, each from slight to strong.

    shifted = SHIFTS["gamma"].apply(scan, 1.0, numpy.random.default_rng(0))

A shift changes the image; where it changes the place of tissue too, the reference goes along, so that what is scored is still
right. Everything happens on the scan's own grid, before any preprocessing, as another scanner would do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.types import Affine, ImageCXYZ, LabelXYZ

# An image smaller than this per axis is not cut further
LEAST_SIDE = 8


@dataclass(frozen=True)
class Scan:
    """A case as a shift finds it and leaves it.

    Args:
        image: (C, X, Y, Z) float32.
        affine: voxel index of the image -> world mm.
        reference: (X, Y, Z) label map.
        repeats: voxels of the reference per voxel of the image, along each axis; 1 unless slices became thicker.
    """

    image: ImageCXYZ
    affine: Affine
    reference: LabelXYZ
    repeats: tuple[int, int, int] = (1, 1, 1)

    def on_reference(self, label: LabelXYZ) -> LabelXYZ:
        """A label map of the image (X', Y', Z') on the reference's grid."""
        for axis, times in enumerate(self.repeats):
            label = np.repeat(label, times, axis=axis) if times > 1 else label
        return label[tuple(slice(side) for side in self.reference.shape)]


Apply = Callable[[Scan, float, np.random.Generator], Scan]


@dataclass(frozen=True)
class Shift:
    """One kind of difference.

    Args:
        what: in words.
        unit: of the strength.
        strengths: tried in this order, slight to strong.
        apply: (scan, strength, random numbers) -> the shifted scan.
        untouched: the strength of the scan as it is.
        mr_only: whether it says nothing about CT.
        channels: how many an image must have.
    """

    what: str
    unit: str
    strengths: tuple[float, ...]
    apply: Apply
    untouched: float = 0.0
    mr_only: bool = False
    channels: int = 1


def _gamma(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    exponent = 2.0 ** (strength * random.choice([-1.0, 1.0]))
    return _values(scan, lambda x: np.clip(x, 0, None) ** exponent)


def _contrast(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    fold = 1.0 - strength  # intensities above it are reflected at it: all of them at strength 1, none at 0
    return _values(scan, lambda x: fold - np.abs(x - fold))


def _bias_field(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    sides = [int(side) for side in scan.reference.shape]
    field = np.zeros(sides)
    x, y, z = (np.cos(np.outer(np.arange(3), np.linspace(0, math.pi, side))) for side in sides)
    for i, j, k in np.ndindex(3, 3, 3):
        if i + j + k:
            field += random.standard_normal() / (i + j + k) * np.einsum("a,b,c->abc", x[i], y[j], z[k])
    field *= math.log1p(strength) / max(float(np.abs(field).max()), 1e-12)
    return _values(scan, lambda x: x * np.exp(field))


def _noise(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    return _values(scan, lambda x: x + strength * random.standard_normal(x.shape))


def _blur(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    deviations = [strength / 2.3548 / side for side in _spacing(scan)]  # full width at half maximum
    return _values(scan, lambda x: ndimage.gaussian_filter(x, deviations, mode="nearest"))


def _thickness(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    times, shape = round(strength), scan.image.shape[1:]
    axis = int(np.argmax(np.round(_spacing(scan), 3)[::-1]))  # the thickest, of equal ones the last
    axis = 2 - axis
    missing = -shape[axis] % times
    filled = np.pad(scan.image, [(0, missing if i == axis + 1 else 0) for i in range(4)], mode="edge")
    split = [*filled.shape[: axis + 1], filled.shape[axis + 1] // times, times, *filled.shape[axis + 2 :]]
    image = filled.reshape(split).mean(axis=axis + 2, dtype=np.float64).astype(np.float32)
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (times - 1) / 2  # the middle of the voxels that became one
    affine[:3, axis] *= times
    repeats = [times if i == axis else 1 for i in range(3)]
    return replace(scan, image=image, affine=affine, repeats=(repeats[0], repeats[1], repeats[2]))


def _ghosting(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    axis = int(random.integers(0, 2))  # phase is encoded within a slice
    side, every = scan.image.shape[1 + axis], int(random.integers(2, 5))
    lines = np.ones(side)
    lines[np.abs(np.fft.fftfreq(side) * side) % every != 0] = 1.0 - strength
    shape = [side if i == axis else 1 for i in range(3)]
    return _values(scan, lambda x: np.abs(np.fft.ifft(np.fft.fft(x, axis=axis) * lines.reshape(shape), axis=axis)))


def _field_of_view(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    first, size = [], []
    for side in scan.reference.shape:
        kept = max(min(side, LEAST_SIDE), round(side * (1 - strength)))
        first.append(int(random.integers(0, side - kept + 1)))
        size.append(kept)
    box = tuple(slice(f, f + n) for f, n in zip(first, size, strict=True))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(first, dtype=np.float64)
    return Scan(np.ascontiguousarray(scan.image[(slice(None), *box)]), affine, scan.reference[box].copy())


def _orientation(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    return _moved(scan, _turn(strength, random), np.zeros(3), range(len(scan.image)), with_reference=True)


def _registration(scan: Scan, strength: float, random: np.random.Generator) -> Scan:
    direction = random.standard_normal(3)
    away = strength * direction / np.linalg.norm(direction)
    return _moved(scan, np.eye(3), away, range(1, len(scan.image)), with_reference=False)


SHIFTS: dict[str, Shift] = {
    "gamma": Shift("intensities raised to a power, brighter or darker", "log2 of the power", (0.5, 1, 1.5, 2), _gamma),
    "contrast": Shift("bright intensities folded back until all is inverted", "share", (0.25, 0.5, 0.75, 1), _contrast),
    "bias_field": Shift("smooth field of brightness", "largest factor - 1", (0.25, 0.5, 1, 2), _bias_field, mr_only=True),
    "noise": Shift("Gaussian noise", "share of the intensity range", (0.05, 0.1, 0.2, 0.4), _noise),
    "blur": Shift("Gaussian blur", "mm at half maximum", (1, 2, 3, 5), _blur),
    "thickness": Shift("thicker slices", "slices in one", (2, 3, 4, 6), _thickness, untouched=1.0),
    "ghosting": Shift("ghosts along a phase axis", "share of the lines' signal", (0.2, 0.4, 0.6, 0.8), _ghosting, mr_only=True),
    "field_of_view": Shift("less of the body in view", "share cut from each axis", (0.1, 0.2, 0.3, 0.4), _field_of_view),
    "orientation": Shift("turned about a random axis", "degrees", (5, 10, 20, 40), _orientation),
    "registration": Shift("channels after the first moved", "mm", (1, 2, 4, 8), _registration, channels=2),
}  # fmt: skip


def shifts_for(channels: dict[int, str]) -> dict[str, Shift]:
    """Those that mean something for images of these channels: MR's own where no channel is CT, registration where two are."""
    ct = any(name.upper() == "CT" for name in channels.values())
    return {
        name: shift for name, shift in SHIFTS.items() if len(channels) >= shift.channels and not (ct and shift.mr_only)
    }


def _values(scan: Scan, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Scan:
    """The intensities of each channel changed, in units in which most of them lie between 0 and 1."""
    result = np.empty_like(scan.image)
    for number, channel in enumerate(scan.image):
        low, high = (float(v) for v in np.percentile(channel, (0.5, 99.5)))
        width = max(high - low, 1e-6)
        result[number] = low + width * change((channel.astype(np.float64) - low) / width)
    return replace(scan, image=result)


def _spacing(scan: Scan) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(scan.affine[:3, :3], axis=0))


def _turn(degrees: float, random: np.random.Generator) -> NDArray[np.float64]:
    """A rotation about a random axis (Rodrigues)."""
    x, y, z = (axis := random.standard_normal(3)) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _moved(
    scan: Scan, turn: NDArray[np.float64], away: NDArray[np.float64], channels: range, *, with_reference: bool
) -> Scan:
    """Tissue turned about the middle and moved (mm), the grid where it was; what comes in from outside is the channel's lowest."""
    axes = scan.affine[:3, :3]
    inverse = np.linalg.inv(axes) @ turn.T @ axes
    middle = (np.asarray(scan.reference.shape) - 1) / 2
    offset = middle - inverse @ (middle + np.linalg.inv(axes) @ away)
    image = scan.image.copy()
    for number in channels:
        lowest = float(np.percentile(scan.image[number], 0.5))
        image[number] = ndimage.affine_transform(scan.image[number], inverse, offset, order=1, cval=lowest)
    if not with_reference:
        return replace(scan, image=image)
    reference = ndimage.affine_transform(scan.reference, inverse, offset, order=0, cval=0)
    return replace(scan, image=image, reference=reference)
