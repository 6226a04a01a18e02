"""Crop, batch and strides of a network for a grid and a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Voxels of all crops of one step without a GPU: keeps a step of a nano network well below a second on two cores.
CPU_STEP_VOXELS = 360_000
# A first guess of the bytes that a nano network holds per voxel of a training step; `medseg.planning.memory` measured 2964
# for mambavision nano at 64^3, fp32, on a CPU. `--memory` measures the step instead of guessing.
BYTES_PER_VOXEL = 2600
SMALLEST_AXIS = 8
# Crops that a step holds at least: slices are many and alike, volumes few.
LEAST_BATCH = {2: 8, 3: 2}
MOST_BATCH = {(2, False): 16, (2, True): 64, (3, False): 4, (3, True): 16}  # (dimensions, GPU)


def choose_strides(
    shape: Sequence[float], spacing: Sequence[float], preset_strides: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Strides per level and axis: the preset's own, but an axis is spared until it is within 2x of the finest.

    Args:
        shape: voxels of the median case.
        spacing: mm per voxel.
        preset_strides: what the preset does at each of its levels on isotropic volumes.
    """
    current, size = list(spacing), list(shape)
    strides = []
    for level in preset_strides:
        finest = min(current)
        step = [s if current[a] < 2 * finest and size[a] >= SMALLEST_AXIS else 1 for a, s in enumerate(level)]
        strides.append(step)
        current = [value * factor for value, factor in zip(current, step, strict=True)]
        size = [value / factor for value, factor in zip(size, step, strict=True)]
    return strides


def choose_roi_size(
    shape: Sequence[float],
    spacing: Sequence[float],
    divisor: Sequence[int],
    voxels: float,
    *,
    least: Sequence[int] | None = None,
    limit: str = "the limit",
) -> tuple[list[int], str]:
    """The largest crop of at most `voxels` that covers the median case, or as much of it as fits, nearly cubic in mm.

    Args:
        shape: median shape on the network's grid, in voxels.
        spacing: mm per voxel of that grid.
        divisor: each axis becomes a multiple of this.
        voxels: upper bound of the crop's volume.
        least: lower bound per axis: twice the network's total stride, so that its deepest maps are no single voxels.
        limit: what bounds the volume, for the reason.
    """
    least = [max(low, d) for low, d in zip(least or divisor, divisor, strict=True)]

    def rounded(size: Sequence[float]) -> list[int]:
        return [max(n, math.ceil(v / d - 1e-6) * d) for v, d, n in zip(size, divisor, least, strict=True)]

    whole = rounded(shape)
    if math.prod(whole) <= voxels:
        return whole, f"covers the median case of {'x'.join(str(round(v)) for v in shape)} voxels whole"
    roi = list(whole)
    while math.prod(roi) > voxels:
        # shorten the axis that is longest in mm, so that the crop stays nearly cubic in the body
        axis = max((a for a in range(len(roi)) if roi[a] > least[a]), key=lambda a: roi[a] * spacing[a], default=None)
        if axis is None:
            break
        roi[axis] -= divisor[axis]
    share = math.prod(roi) / math.prod(shape)
    if math.prod(roi) > voxels:
        return (
            roi,
            f"the smallest crop that the network takes, above what {limit} asks for; {share:.0%} of the median case",
        )
    kind = f"the largest nearly cubic crop of at most {voxels / 1e6:.2g} million voxels"
    return roi, f"{kind}, which {limit} allows; {share:.0%} of the median case"


def choose_crops(
    shape: Sequence[float],
    spacing: Sequence[float],
    total_strides: Sequence[int],
    memory_bytes: float | None,
    bytes_per_voxel: float,
    gpu: bool,
) -> tuple[list[int], int, str, str]:
    """Crop and batch for a budget; returns roi_size, batch_size and the reason of each.

    Args:
        shape, spacing: of the median case on the network's grid; two values for a network of slices.
        total_strides: how much the network shrinks each axis.
        memory_bytes: what a step may hold, or None for the defaults.
        bytes_per_voxel: what a step holds per voxel of its crops.
        gpu: whether a GPU will train it.
    """
    # the deepest stages pad by themselves: rounding the crop up to more than 8 would only add empty voxels
    divisor = [min(step, 8) for step in total_strides]
    dims = len(shape)
    budget = memory_bytes or (8e9 if gpu else 4e9)
    voxels = budget / bytes_per_voxel
    limit = f"the {budget / 1e9:.3g} GB of {'--memory' if memory_bytes else 'a default plan'}"
    if not gpu and memory_bytes is None and voxels > CPU_STEP_VOXELS:
        voxels, limit = CPU_STEP_VOXELS, "the time a step takes without a GPU"
    least = [2 * step for step in total_strides]
    roi_size, why_roi = choose_roi_size(shape, spacing, divisor, voxels / LEAST_BATCH[dims], least=least, limit=limit)
    batch_size = int(max(2, min(voxels // math.prod(roi_size), MOST_BATCH[dims, gpu])))
    why_batch = _why_batch(batch_size, math.prod(roi_size), voxels, limit, MOST_BATCH[dims, gpu])
    return roi_size, batch_size, why_roi, why_batch


def _why_batch(batch_size: int, crop: int, voxels: float, limit: str, most: int) -> str:
    """What decided the batch: the limit, the most crops that a step is given, or the least."""
    crops = f"crops of {crop / 1e6:.2g} million voxels"
    if batch_size == most and voxels // crop >= most:
        return f"{most} {crops}, the most that are planned for a step; {limit} would allow {int(voxels // crop)}"
    if voxels // crop < batch_size:
        return (
            f"{batch_size} {crops}, the least that are planned for a step, though {limit} allows {int(voxels // crop)}"
        )
    return f"as many {crops} as {limit} allows"
