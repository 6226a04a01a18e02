"""A task that only context solves: the class of a target depends on a marker's pattern some voxels away along an axis.

    volumes, targets, kinds = draw(Task(distance=6), 8, random)

Background is white noise. A marker is a cube of 2 x 2 x 2 voxels whose signs alternate along y (kind 0) or along z (kind 1); the
target, `distance` voxels away along one axis in one direction, is a cube of a constant value. Both are drawn together, so that no
place tells the kind; both kinds hold the same values, so that no mean, deviation or norm over the volume tells it; kinds come in
equal numbers. What does not see the marker from the target is right in one half of all cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medseg.errors import ConfigError

SIDE = 2  # voxels of marker and target
HEIGHT = 3.0  # their values, in deviations of the background


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        distance: voxels from the marker's first voxel to the target's.
        length: voxels along the axis in which the target lies.
        width: voxels along the others.
        axes: along which the target may lie; one for each batch.
        directions: +1: behind the marker in the order of the axis, -1: before it.
    """

    distance: int
    length: int = 16
    width: int = 8
    axes: tuple[int, ...] = (0, 1, 2)
    directions: tuple[int, ...] = (1, -1)

    def __post_init__(self) -> None:
        """Refuse what has no room. Raises ConfigError."""
        if not SIDE < self.distance <= self.length - SIDE:
            raise ConfigError(
                f"probe: distance {self.distance} on a grid {self.length} voxels long, expected {SIDE + 1} to {self.length - SIDE}"
            )


def draw(task: Task, count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Volumes (count, 1, X, Y, Z), the target's first voxel (count, 3), and the marker's kind (count,), 0 and 1 in turn."""
    axis = task.axes[_one_of(len(task.axes), random)]
    grid = tuple(task.length if other == axis else task.width for other in range(3))
    volumes = torch.randn((count, 1, *grid), generator=random)
    places = torch.zeros((count, 3), dtype=torch.long)
    kinds = torch.arange(count) % 2
    sign = torch.tensor([1.0, -1.0])
    for number in range(count):
        step = task.directions[_one_of(len(task.directions), random)] * task.distance
        marker = []
        for other, side in enumerate(grid):
            low, high = (max(0, -step), side - SIDE - max(0, step)) if other == axis else (0, side - SIDE)
            marker.append(low + _one_of(high - low + 1, random))
        target = [at + (step if other == axis else 0) for other, at in enumerate(marker)]
        along = 1 + int(kinds[number])
        shape = [SIDE if other == along else 1 for other in range(3)]
        pattern = HEIGHT * sign.view(shape).expand(SIDE, SIDE, SIDE)
        flip = 1 - 2 * _one_of(2, random)
        volumes[number, 0][_cube(marker)] = flip * pattern
        volumes[number, 0][_cube(target)] = HEIGHT
        places[number] = torch.tensor(target)
    return volumes, places, kinds


def at_targets(output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, K, X, Y, Z) and (B, 3) -> (B, K): the mean over each target's voxels."""
    pairs = zip(output, places, strict=True)
    return torch.stack([one[(slice(None), *_cube(place.tolist()))].mean((1, 2, 3)) for one, place in pairs])


def _cube(first: list[int]) -> tuple[slice, ...]:
    return tuple(slice(at, at + SIDE) for at in first)


def _one_of(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=random))
