"""nnU-Net v2's own preprocessing, for networks that were trained with it: same axes, box, intensities and splines.

The array is read as (Z, Y, X) and permuted by `transpose_forward`; nothing is turned to RAS. Images are resampled with cubic
splines; where one axis is coarse, slice by slice, and along it by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, GridMismatchError
from medseg.types import Affine, ImageCXYZ

from .grid import GridMap, box_around
from .preprocessing import Prepared
from .resampling import resample_label
from .room import room_for_image, room_for_label

# An axis counts as coarse when its spacing is more than this many times the finest (nnU-Net's ANISO_THRESHOLD).
ANISOTROPY = 3.0
# voxels that the edge is repeated by before splines are fitted, as scipy does
_SPLINE_PAD = 12
_PIECE_VOXELS = 1 << 20
SCHEMES = ("CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization")


def coarse_axis(current: Sequence[float], wanted: Sequence[float]) -> int | None:
    """The axis that is resampled by itself, or None; nnU-Net's rule, which gives up when several axes are the coarsest."""
    for spacing in (current, wanted):
        if max(spacing) / min(spacing) > ANISOTROPY:
            coarsest = [axis for axis in range(3) if max(spacing) / spacing[axis] == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def _spline(values: NDArray[np.floating], shape: Sequence[int]) -> NDArray[np.floating]:
    """Cubic resize, edge to edge, kept within the input's range.

    `scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True)` to 1e-14, axis by axis: 4 products per axis instead of 64 per
    voxel, and no copy of the whole in float64.
    """
    if tuple(values.shape) == tuple(shape):
        return values
    low, high = values.min(), values.max()
    for axis in sorted(
        range(values.ndim), key=lambda a: shape[a] / values.shape[a]
    ):  # first those that make it smaller
        values = _spline_along(values, axis, int(shape[axis]))
    return np.clip(values, low, high, out=values)


def _spline_along(values: NDArray[np.floating], axis: int, new: int) -> NDArray[np.floating]:
    """Cubic resize of one axis, in pieces along another one that fit into the cache."""
    old = values.shape[axis]
    if old == new:
        return values
    position = (np.arange(new) + 0.5) * (old / new) - 0.5 + _SPLINE_PAD
    first = np.floor(position).astype(int)
    t = position - first
    shares = ((1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (4 - 6 * (1 - t) ** 2 + 3 * (1 - t) ** 3) / 6, t**3 / 6)
    column = [-1 if a == axis else 1 for a in range(values.ndim)]
    pads = [(_SPLINE_PAD, _SPLINE_PAD) if a == axis else (0, 0) for a in range(values.ndim)]
    across = 0 if axis else 1
    result = np.empty([new if a == axis else n for a, n in enumerate(values.shape)], dtype=np.float64)
    step = max(1, _PIECE_VOXELS * values.shape[across] // values.size)
    for begin in range(0, values.shape[across], step):
        here = tuple(slice(begin, begin + step) if a == across else slice(None) for a in range(values.ndim))
        padded = np.pad(values[here].astype(np.float64), pads, mode="edge")
        from scipy import ndimage  # a fifth of a second: not for bundles that never ask for it

        nodes = ndimage.spline_filter1d(padded, 3, axis, mode="nearest")
        total = np.take(nodes, first - 1, axis=axis) * shares[0].reshape(column)
        for offset, share in enumerate(shares[1:]):
            total += np.take(nodes, first + offset, axis=axis) * share.reshape(column)
        result[here] = total
    return result


def resize_cubic(channel: NDArray[np.float32], shape: Sequence[int], separate: int | None) -> NDArray[np.float32]:
    """One channel (X, Y, Z) to another number of voxels; along `separate` by nearest neighbour."""
    if tuple(channel.shape) == tuple(shape):
        return channel
    if separate is None:
        return _spline(channel, shape).astype(np.float32)
    flat = [n for axis, n in enumerate(shape) if axis != separate]
    slices = np.moveaxis(channel, separate, 0)
    resized = np.stack([_spline(one, flat).astype(np.float32) for one in slices])
    old, new = channel.shape[separate], shape[separate]
    # in this order of operations: where a position lies half-way, the last bit decides which slice is taken
    position = (np.arange(new) + 0.5) * (float(old) / new) - 0.5
    picked = np.floor(np.clip(position, 0, old - 1) + 0.5).astype(int)
    return np.ascontiguousarray(np.moveaxis(resized[picked], 0, separate))


class NnunetPreprocessing:
    """What a plans file says happens to an image; used where `Preprocessing` is.

    Args:
        spacing: of the configuration, along the network's axes.
        normalization: one scheme's name per channel.
        masked: per channel, whether statistics are taken inside the nonzero region only (`use_mask_for_norm`).
        intensities: per channel `foreground_intensity_properties` (mean, std, percentile_00_5, percentile_99_5).
        transpose: `transpose_forward`.
    """

    def __init__(
        self,
        spacing: Sequence[float],
        normalization: Sequence[str],
        masked: Sequence[bool],
        intensities: Sequence[Mapping[str, float]],
        transpose: Sequence[int] = (0, 1, 2),
    ) -> None:
        unknown = [name for name in normalization if name not in SCHEMES]
        if unknown:
            raise ConfigError(f"normalization {unknown[0]}: expected one of {', '.join(SCHEMES)}")
        self.spacing = [float(v) for v in spacing]
        self.normalization, self.masked = list(normalization), [bool(v) for v in masked]
        self.intensities = [dict(entry) for entry in intensities]
        self.transpose = [int(axis) for axis in transpose]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready settings."""
        return dict(vars(self))

    def grid_map(self, image: ImageCXYZ, affine: Affine) -> tuple[GridMap, list[float]]:
        """The network's grid, and the source's spacing along the network's axes."""
        axes = tuple(2 - axis for axis in self.transpose)
        lengths = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
        current = [float(lengths[axis]) for axis in axes]
        start, extent = box_around((image != 0).any(axis=0).transpose(axes))
        shape = [max(1, round(n * old / new)) for n, old, new in zip(extent, current, self.spacing, strict=True)]
        separate = coarse_axis(self.spacing, current)  # the way back asks from the configuration's spacing
        nearest = () if separate is None else (separate,)
        source = tuple(int(n) for n in image.shape[1:])
        return GridMap(source, axes, (False,) * 3, tuple(start), tuple(extent), tuple(shape), nearest), current

    def apply(self, image: ImageCXYZ, affine: Affine) -> Prepared:
        """As `Preprocessing.apply`."""
        if image.shape[0] != len(self.normalization):
            raise ConfigError(f"image with {image.shape[0]} channels: the plans file has {len(self.normalization)}")
        affine = np.asarray(affine, dtype=np.float64)
        grid, current = self.grid_map(image, affine)
        with room_for_image(grid, image.shape[0] + 2):  # splines are evaluated in float64
            inside = np.array(grid.cut(grid.turn(image)), dtype=np.float32, order="C", copy=True)
            mask = _filled((inside != 0).any(axis=0)) if any(self.masked) else None
            separate = coarse_axis(current, self.spacing)
            result = np.empty((image.shape[0], *grid.shape), dtype=np.float32)
            for channel in range(image.shape[0]):
                values = self._normalized(inside[channel], channel, mask if self.masked[channel] else None)
                result[channel] = resize_cubic(values, grid.shape, separate)
        return Prepared(result, affine @ grid.matrix(), grid.source_shape, affine, grid)

    def apply_label(
        self, label: NDArray[np.integer], affine: Affine, *, grid: GridMap | None = None
    ) -> NDArray[np.integer]:
        """As `Preprocessing.apply_label`; `grid` is needed, since the cut looks at the image."""
        if grid is None:
            raise ConfigError("nnU-Net cuts by the image: pass grid=prepared.grid of the label's image")
        if tuple(label.shape) != grid.source_shape:
            raise GridMismatchError(f"label of shape {tuple(label.shape)} for an image of {grid.source_shape}")
        with room_for_label(grid):
            return resample_label(np.ascontiguousarray(grid.cut(grid.turn(label))), grid.shape)

    def _normalized(self, values: NDArray[np.float32], channel: int, mask: Any) -> NDArray[np.float32]:
        scheme = self.normalization[channel]
        if scheme == "CTNormalization":
            facts = self.intensities[channel]
            values = np.clip(values, facts["percentile_00_5"], facts["percentile_99_5"])
            return ((values - facts["mean"]) / max(facts["std"], 1e-8)).astype(np.float32)
        if scheme == "ZScoreNormalization":
            chosen = values if mask is None else values[mask]
            mean, std = float(chosen.mean(dtype=np.float64)), float(chosen.std(dtype=np.float64))
            scaled = ((values - mean) / max(std, 1e-8)).astype(np.float32)
            return scaled if mask is None else np.where(mask, scaled, values)
        if scheme == "RescaleTo01Normalization":
            low, high = float(values.min()), float(values.max())
            return ((values - low) / max(high - low, 1e-8)).astype(np.float32)
        return values


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage  # see above

    return np.asarray(ndimage.binary_fill_holes(mask), dtype=bool)
