"""What may happen to a training crop, and how often: probabilities and ranges, no code that does it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from medseg.errors import ConfigError, nearest

Range = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Probabilities and ranges of every random change of a crop; the defaults are nnU-Net's.

    Args:
        rotation: probability of a rotation.
        rotation_degrees: largest angle about each axis, in mm space.
        scaling: probability of a zoom.
        scaling_range: zoom factors; above 1 structures appear larger.
        elastic: probability of a smooth deformation.
        elastic_mm: standard deviation of its control points, in mm (voxels where `spacing` is not given).
        elastic_points: control points per axis beyond the spline's border.
        mirror: probability of a flip of each of the mirror axes.
        mirror_axes: axes that may be flipped; None takes all.
        noise: probability of additive Gaussian noise.
        noise_std: range of its standard deviation, in units of the normalised image.
        blur: probability of Gaussian smoothing.
        blur_sigma: range of its width in voxels.
        gain: probability of a multiplication.
        gain_range: factors.
        offset: probability of an addition.
        offset_range: what is added, in units of the normalised image.
        contrast: probability of stretching about the mean, within the crop's own range.
        contrast_range: factors.
        low_resolution: probability of losing resolution and being interpolated back.
        low_resolution_range: remaining resolution.
        inverted_gamma: probability of a gamma change of the inverted image.
        gamma: probability of a gamma change.
        gamma_range: exponents; mean and standard deviation of the crop are kept.
        per_channel: probability of each channel to be changed when blur or low resolution happens.
        gin: probability of a random shallow convolution of every channel, see `appearance.gin`.
        paint: probability of random intensities in the place of each label's, see `appearance.paint`.
        channel_dropout: probability that one of several channels becomes zero, for data where channels may be missing.
        spacing: mm per voxel of the network's grid; keeps rotations rigid on anisotropic grids.
        thick_slices: ratio of spacings from which a rotation stays within the slices.
        label_mode: `vote` or `nearest`.
    """

    rotation: float = 0.2
    rotation_degrees: float = 30.0
    scaling: float = 0.2
    scaling_range: Range = (0.7, 1.4)
    elastic: float = 0.0
    elastic_mm: float = 3.0
    elastic_points: int = 4
    mirror: float = 0.5
    mirror_axes: tuple[int, ...] | None = None
    noise: float = 0.1
    noise_std: Range = (0.0, 0.1)
    blur: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    gain: float = 0.15
    gain_range: Range = (0.75, 1.25)
    offset: float = 0.0
    offset_range: Range = (-0.2, 0.2)
    contrast: float = 0.15
    contrast_range: Range = (0.75, 1.25)
    low_resolution: float = 0.25
    low_resolution_range: Range = (0.5, 1.0)
    inverted_gamma: float = 0.1
    gamma: float = 0.3
    gamma_range: Range = (0.7, 1.5)
    per_channel: float = 0.5
    gin: float = 0.0
    paint: float = 0.0
    channel_dropout: float = 0.0
    spacing: tuple[float, ...] | None = None
    thick_slices: float = 3.0
    label_mode: str = "vote"


_INTENSITY = (
    *("noise", "blur", "gain", "offset", "contrast", "low_resolution", "inverted_gamma", "gamma"),
    *("gin", "paint", "channel_dropout"),
)
_QUIET: dict[str, Any] = dict.fromkeys(_INTENSITY, 0.0)
_NOTHING: dict[str, Any] = dict.fromkeys(("rotation", "scaling", "elastic", "mirror", *_INTENSITY), 0.0)

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    # a short training gains more from seeing the anatomy than from its distortions
    "light": dataclasses.replace(
        Recipe(), rotation_degrees=15.0, scaling_range=(0.85, 1.15), blur=0.0, low_resolution=0.0
    ),
    "strong": dataclasses.replace(Recipe(), rotation=0.5, scaling=0.5, elastic=0.3, gain=0.3, offset=0.2, contrast=0.3),
    # for scanners that were not trained on
    "gin": dataclasses.replace(Recipe(), gin=0.5),
    "paint": dataclasses.replace(Recipe(), paint=0.5),
    "spatial": dataclasses.replace(Recipe(), **_QUIET),
    "none": dataclasses.replace(Recipe(), **_NOTHING),
}


def build_recipe(preset: str | Recipe = "default", **changes: Any) -> Recipe:
    """A recipe by name, with some of its values changed.

    Args:
        preset: a key of `RECIPES`, or a recipe.
        changes: fields of `Recipe`; lists (as JSON gives them) are taken for tuples.

    Raises:
        ConfigError: an unknown preset or field, a probability outside [0, 1], a range that is none.
    """
    if not isinstance(preset, Recipe) and preset not in RECIPES:
        raise ConfigError(f"augmentation preset {preset!r} does not exist. {nearest(preset, RECIPES)}")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for name, value in changes.items():
        if name not in fields:
            raise ConfigError(f"augmentation has no setting {name!r}. {nearest(name, fields)}")
        changes[name] = tuple(value) if isinstance(value, list) else value
    recipe = dataclasses.replace(preset if isinstance(preset, Recipe) else RECIPES[preset], **changes)
    for name, field in fields.items():
        value = getattr(recipe, name)
        if field.type == "Range" and not (len(value) == 2 and value[0] <= value[1]):
            raise ConfigError(f"augmentation {name} is {value}, expected two numbers, the smaller first")
        if name in (*_NOTHING, "per_channel") and not 0 <= value <= 1:
            raise ConfigError(f"augmentation {name} is {value}, expected a probability in [0, 1]")
    if recipe.scaling_range[0] <= 0 or recipe.low_resolution_range[0] <= 0 or recipe.gamma_range[0] <= 0:
        raise ConfigError("augmentation scaling_range, low_resolution_range and gamma_range must be above 0")
    if recipe.label_mode not in ("vote", "nearest"):
        raise ConfigError(f"augmentation label_mode is {recipe.label_mode!r}, expected 'vote' or 'nearest'")
    return recipe
