"""Strides and kernels per axis: what the planner asks a preset, and what follows for its convolutions."""

import math
from collections.abc import Sequence

from medseg.errors import ConfigError

from .layers.common import per_axis
from .recipe import NetworkSpec

FEWEST_VOXELS = 4  # an axis is halved only while this many tokens are left on it afterwards (nnU-Net's limit)
COARSE = 2.0  # an axis this many times coarser than the finest is not halved, and its kernels are 1


def plan_strides(
    spec: NetworkSpec, roi_size: Sequence[int], spacing: Sequence[float] | None = None
) -> list[tuple[int, ...]]:
    """Strides per level and axis for a patch: the preset's, but 1 on an axis that is too short or still too coarse.

    Args:
        spec: what a preset returned.
        roi_size: voxels of the training patch.
        spacing: mm per voxel, or None when it is the same on every axis.

    Returns:
        One tuple per level, finest first.
    """
    dims = len(roi_size)
    left, size_mm = list(roi_size), [1.0] * dims if spacing is None else [float(s) for s in spacing]
    steps = []
    for level in spec.levels:
        step = per_axis(level.stride, dims, "stride")
        finest = min(mm for axis, mm in enumerate(size_mm) if left[axis] >= 2 * FEWEST_VOXELS or axis == 0)
        step = tuple(
            s if s == 1 or (left[axis] >= s * FEWEST_VOXELS and size_mm[axis] < COARSE * finest) else 1
            for axis, s in enumerate(step)
        )
        left = [-(-n // s) for n, s in zip(left, step, strict=True)]
        size_mm = [mm * s for mm, s in zip(size_mm, step, strict=True)]
        steps.append(step)
    return steps


def resolve_strides(
    spec: NetworkSpec,
    spatial_dims: int,
    strides: Sequence[int | Sequence[int]] | None,
    roi_size: Sequence[int] | None,
) -> list[tuple[int, ...]]:
    """The strides that a network is built with: those given, else planned for the patch, else the preset's.

    Raises:
        ConfigError: another number of levels or axes than the preset has, a first level that is not at full
            resolution, or a patch that is shorter than one voxel of the coarsest level.
    """
    patch = None if roi_size is None else per_axis(list(roi_size), spatial_dims, "roi_size")
    if strides is None:
        steps = [per_axis(level.stride, spatial_dims, "stride") for level in spec.levels]
        return steps if patch is None else plan_strides(spec, patch)
    if len(strides) != len(spec.levels):
        raise ConfigError(
            f"strides: found {len(strides)} levels, expected {len(spec.levels)} for this preset and size (medseg networks "
            "lists them); use a stride of 1 where nothing is to be halved"
        )
    steps = [per_axis(s if isinstance(s, int) else list(s), spatial_dims, "strides") for s in strides]
    if any(s < 1 for step in steps for s in step) or max(steps[0]) != 1:
        raise ConfigError(f"strides: found {steps}, expected positive numbers and 1 on the first level")
    divisor = [math.prod(axis) for axis in zip(*steps, strict=True)]
    if patch is not None and any(n < d for n, d in zip(patch, divisor, strict=True)):
        raise ConfigError(
            f"roi_size: found {patch}, expected at least {tuple(divisor)}, the product of the strides per axis; "
            "take fewer strides of 2 or a larger patch"
        )
    return steps


def kernel_sizes(steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Kernel 3, but 1 on an axis that is coarser than the others: before the level at which it is first halved."""
    dims = len(steps[0])
    kernels = []
    for index in range(len(steps)):
        following = steps[index + 1] if index + 1 < len(steps) else (2,) * dims
        done = [math.prod(step[axis] for step in steps[: index + 1]) for axis in range(dims)]
        later = [math.prod(step[axis] for step in steps[index + 1 :]) for axis in range(dims)]
        waits = [done[a] == 1 and following[a] == 1 and max(following) > 1 and later[a] > 1 for a in range(dims)]
        kernels.append(tuple(1 if wait else 3 for wait in waits))
    return kernels
