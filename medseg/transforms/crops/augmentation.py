"""Random training crops: every random number is drawn first, then one pass cuts the crop.

`draw` turns a generator into plain numbers; `apply` uses them and draws nothing. A run resumed at any step, with any
number of workers, therefore sees the same crops. `apply` reads only the voxels that the crop touches, interpolates image
and label in one loop (`medseg_kernels.warp_patch`), and changes intensities on the crop, never on the whole case.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_kernels import warp_patch

from . import appearance, intensity
from .recipes import RECIPES, Recipe, build_recipe

__all__ = [
    "RECIPES",
    "AugmentationParameters",
    "ChannelParameters",
    "Recipe",
    "apply",
    "build_recipe",
    "draw",
    "spare_missing",
]


@dataclass(frozen=True)
class ChannelParameters:
    """What happens to the values of one channel, in this order; None means it does not happen.

    Args:
        noise_std, noise_seed: additive Gaussian noise.
        blur_sigma: width in voxels.
        gain, offset: multiplication, then addition.
        contrast: factor about the mean.
        low_resolution: remaining resolution.
        inverted_gamma, gamma: exponents.
        gin_seed, paint_seed: of a new appearance, which comes before all of the above; painting before the convolutions.
        dropped: the channel is set to zero, whatever else happens to it.
    """

    noise_std: float | None = None
    noise_seed: int = 0
    blur_sigma: float | None = None
    gain: float | None = None
    offset: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    inverted_gamma: float | None = None
    gamma: float | None = None
    gin_seed: int | None = None
    paint_seed: int | None = None
    dropped: bool = False


@dataclass(frozen=True, eq=False)
class AugmentationParameters:
    """Everything random about one crop.

    Args:
        matrix: (3, 3), step in the crop (voxels) -> step in the source (voxels); flips included.
        bumps: (3, G, G, G) spline control points in source voxels, or None.
        channels: one entry per image channel.
        label_mode: how the label is interpolated.
    """

    matrix: NDArray[np.float64]
    bumps: NDArray[np.float32] | None
    channels: tuple[ChannelParameters, ...]
    label_mode: str = "vote"

    @property
    def on_grid(self) -> bool:
        """Whether crop voxels fall on source voxels: nothing but flips."""
        return self.bumps is None and np.array_equal(np.abs(self.matrix), np.eye(3))


def draw(
    generator: np.random.Generator,
    roi_size: Sequence[int],
    channels: int = 1,
    *,
    recipe: Recipe | None = None,
    **settings: object,
) -> AugmentationParameters:
    """Draw all random numbers of one crop.

    Args:
        generator: from (seed, epoch, sample index), such as `SampleKey.generator`.
        roi_size: voxels of the crop, two or three axes.
        channels: image channels.
        recipe: probabilities and ranges; or give `preset=` and fields of `Recipe` by name.
        settings: arguments of `build_recipe`.

    Raises:
        ConfigError: an unknown setting.
    """
    if recipe is None:
        recipe = _cached_recipe(json.dumps(settings, sort_keys=True, default=list))
    axes = len(roi_size)
    matrix = _draw_matrix(generator, recipe, axes)
    bumps = _draw_bumps(generator, recipe, axes)
    values = _draw_channels(generator, recipe, channels)
    return AugmentationParameters(matrix, bumps, values, recipe.label_mode)


def spare_missing(parameters: AugmentationParameters, missing: Collection[int]) -> AugmentationParameters:
    """The same parameters for a case without some channels: those stay zero, and the last one present is not dropped."""
    if not missing:
        return parameters
    nothing = ChannelParameters()
    values = [nothing if i in missing else changes for i, changes in enumerate(parameters.channels)]
    if all(changes.dropped for i, changes in enumerate(values) if i not in missing):
        values = [nothing if changes.dropped else changes for changes in values]
    return dataclasses.replace(parameters, channels=tuple(values))


def apply(
    image: Any,
    label: Any,
    center: Sequence[float],
    roi_size: Sequence[int],
    parameters: AugmentationParameters,
    *,
    image_outside: float = 0.0,
    label_outside: int = 0,
) -> tuple[Any, Any]:
    """Cut one crop.

    Args:
        image: (C, X, Y, Z) or (C, X, Y) float32, an array, a memory map or a tensor on any device; read in place.
        label: (X, Y, Z) or (X, Y) integers on the same grid, or None.
        center: source position, in voxels, of the middle of the crop. Where nothing but flips happens the crop is moved
            by at most half a voxel onto the source's grid, so that it is copied and not interpolated.
        roi_size: voxels of the crop.
        parameters: what `draw` returned.
        image_outside: value outside the source.
        label_outside: label outside the source.

    Returns:
        Image crop (C, *roi_size) float32 and label crop (*roi_size) of the label's dtype, of the kind that came in.
    """
    flat = len(roi_size) == 2
    if flat:
        image, label = image[..., None], None if label is None else label[..., None]
        center, roi_size = (*center, 0.0), (*roi_size, 1)
    size = tuple(int(n) for n in roi_size)
    crop: Any
    label_crop: Any
    middle = (np.asarray(size) - 1) / 2.0
    place = np.asarray(center, dtype=np.float64)
    if parameters.on_grid:
        place = np.floor(place - middle + 0.5) + middle
    if parameters.on_grid and not isinstance(image, Tensor):
        start, signs = (place - middle).astype(int), np.diag(parameters.matrix)
        crop = _copy_crop(image, start, size, signs, image_outside)
        label_crop = None if label is None else _copy_crop(label[None], start, size, signs, label_outside)[0]
    else:
        mapping = np.concatenate([parameters.matrix, (place - parameters.matrix @ middle)[:, None]], axis=1)
        crop, label_crop = warp_patch(
            image,
            label,
            mapping,
            size,
            bumps=parameters.bumps,
            image_outside=image_outside,
            label_outside=label_outside,
            label_mode=parameters.label_mode,  # type: ignore[arg-type]
        )
    values = crop if isinstance(crop, Tensor) else torch.from_numpy(crop)
    classes = None if label_crop is None else torch.as_tensor(label_crop)
    for channel, changes in zip(values, parameters.channels, strict=True):
        _change_values(channel, classes, changes)
    if flat:
        return crop[..., 0], None if label_crop is None else label_crop[..., 0]
    return crop, label_crop


@functools.lru_cache(maxsize=64)
def _cached_recipe(settings: str) -> Recipe:
    return build_recipe(**json.loads(settings))


def _draw_matrix(generator: np.random.Generator, recipe: Recipe, axes: int) -> NDArray[np.float64]:
    """Flips, rotation and zoom as one matrix; always the same count of draws, so that ranges move nothing else."""
    events, angles, zoom = generator.random(2), generator.uniform(-1, 1, 3), generator.uniform(*recipe.scaling_range)
    flips = generator.random(3)
    spacing = np.ones(3)
    if recipe.spacing is not None:
        spacing[: len(recipe.spacing)] = recipe.spacing
    matrix = np.eye(3)
    if events[0] < recipe.rotation:
        radians = np.deg2rad(recipe.rotation_degrees) * angles
        thick = 2 if axes == 2 else int(np.argmax(spacing))
        if axes == 2 or spacing[thick] >= recipe.thick_slices * np.min(spacing):
            radians = np.where(np.arange(3) == thick, radians, 0.0)
        matrix = np.diag(1 / spacing) @ _rotation(radians) @ np.diag(spacing)
    if events[1] < recipe.scaling:
        matrix[:axes, :axes] /= zoom
    mirrored = range(axes) if recipe.mirror_axes is None else recipe.mirror_axes
    for axis in mirrored:
        if flips[axis] < recipe.mirror:
            matrix[:, axis] *= -1
    return matrix


def _rotation(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(radians):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def _draw_bumps(generator: np.random.Generator, recipe: Recipe, axes: int) -> NDArray[np.float32] | None:
    if generator.random() >= recipe.elastic:
        return None
    points = recipe.elastic_points + 3
    grid = (points, points, points if axes == 3 else 4)
    bumps = generator.normal(0.0, recipe.elastic_mm, (3, *grid)).astype(np.float32)
    if recipe.spacing is not None:
        bumps[: len(recipe.spacing)] /= np.asarray(recipe.spacing, dtype=np.float32).reshape(-1, 1, 1, 1)
    if axes == 2:
        bumps[2] = 0.0
        bumps[:] = bumps[..., :1]  # one slice: the same displacement wherever the spline is asked
    return bumps


def _draw_channels(generator: np.random.Generator, recipe: Recipe, channels: int) -> tuple[ChannelParameters, ...]:
    names = ("noise", "blur", "gain", "offset", "contrast", "low_resolution", "inverted_gamma", "gamma")
    ranges = (
        *(recipe.noise_std, recipe.blur_sigma, recipe.gain_range, recipe.offset_range, recipe.contrast_range),
        *(recipe.low_resolution_range, recipe.gamma_range, recipe.gamma_range),
    )
    fields = ("noise_std", "blur_sigma", "gain", "offset", "contrast", "low_resolution", "inverted_gamma", "gamma")
    events = generator.random(len(names))
    drawn = []
    for _ in range(channels):
        chances, shares = generator.random(len(names)), generator.random(len(names))
        seed = int(generator.integers(0, 2**63))
        values: dict[str, Any] = {}
        for i, (name, (low, high)) in enumerate(zip(names, ranges, strict=True)):
            spared = name in ("blur", "low_resolution") and channels > 1 and chances[i] >= recipe.per_channel
            happens = events[i] < getattr(recipe, name) and not spared
            values[fields[i]] = float(low + (high - low) * shares[i]) if happens else None
        drawn.append(ChannelParameters(noise_seed=seed, **values))
    # drawn last, so that the numbers above are those of a recipe without it
    if channels > 1 and recipe.channel_dropout > 0 and generator.random() < recipe.channel_dropout:
        lost = int(generator.integers(0, channels))
        drawn[lost] = ChannelParameters(dropped=True)
    return _with_appearance(generator, recipe, tuple(drawn))


def _with_appearance(
    generator: np.random.Generator, recipe: Recipe, drawn: tuple[ChannelParameters, ...]
) -> tuple[ChannelParameters, ...]:
    """The channels with a new look where it happens; it draws nothing, and moves nothing, where a recipe has neither."""
    for name in ("gin", "paint"):
        chance = getattr(recipe, name)
        if chance > 0:
            happens, seeds = generator.random() < chance, generator.integers(0, 2**63, len(drawn))
            if happens:
                drawn = tuple(
                    dataclasses.replace(one, **{f"{name}_seed": int(seed)})  # type: ignore[arg-type]
                    for one, seed in zip(drawn, seeds, strict=True)
                )
    return drawn


def _change_values(channel: Tensor, label: Tensor | None, changes: ChannelParameters) -> None:
    if changes.dropped:
        channel.zero_()
        return
    if changes.paint_seed is not None and label is not None:
        appearance.paint(channel, label, changes.paint_seed)
    if changes.gin_seed is not None:
        appearance.gin(channel, changes.gin_seed)
    if changes.noise_std is not None:
        intensity.add_noise(channel, changes.noise_std, changes.noise_seed)
    if changes.blur_sigma is not None:
        intensity.blur(channel, changes.blur_sigma)
    if changes.gain is not None:
        channel.mul_(changes.gain)
    if changes.offset is not None:
        channel.add_(changes.offset)
    if changes.contrast is not None:
        intensity.stretch_contrast(channel, changes.contrast)
    if changes.low_resolution is not None:
        intensity.lose_resolution(channel, changes.low_resolution)
    if changes.inverted_gamma is not None:
        intensity.change_gamma(channel, changes.inverted_gamma, inverted=True)
    if changes.gamma is not None:
        intensity.change_gamma(channel, changes.gamma)


def _copy_crop(
    source: NDArray[Any], start: NDArray[np.integer], size: Sequence[int], signs: NDArray[np.float64], outside: float
) -> NDArray[Any]:
    """A crop of (C, X, Y, Z) on the source's own grid, flipped where the sign is negative."""
    crop = np.empty((source.shape[0], *size), dtype=source.dtype)
    reads, writes = [slice(None)], [slice(None)]
    for first, n, extent in zip(start, size, source.shape[1:], strict=True):
        low, high = max(int(first), 0), min(int(first) + n, extent)
        reads.append(slice(low, max(low, high)))
        writes.append(slice(low - int(first), max(low, high) - int(first)))
    turned = crop[(slice(None), *(slice(None, None, -1 if sign < 0 else 1) for sign in signs))]
    if any(part.stop - part.start < n for part, n in zip(writes[1:], size, strict=True)):
        crop.fill(outside)
    turned[tuple(writes)] = source[tuple(reads)]
    return crop
