"""A box of the volume instead of the whole: the windows that reach into it, at the places where they always lie.

Every voxel of the box is seen by the same windows, in the same order, as when the whole volume is computed, so its label is
the same; outside the box nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from medseg.transforms.grid import GridMap
from medseg.transforms.restoring import source_tables
from medseg_kernels import AxisTable

from .slab import WindowPlan

# (first voxel, end) per axis of the source array
Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Part:
    """What is left of a plan for a box.

    Args:
        plan: of the windows that reach into the box, counted from `first`.
        first: voxel of the padded network grid where they begin.
        tables: which voxels of that part make each source voxel of the box, along the network's axes.
        region: the box in turned and cut source voxels.
    """

    plan: WindowPlan
    first: tuple[int, ...]
    tables: tuple[AxisTable, ...]
    region: tuple[slice, ...]


def part_of_plan(plan: WindowPlan, grid: GridMap, box: Box) -> Part | None:
    """The windows that the box needs, or None when the network's grid does not reach it.

    Args:
        plan: of the whole volume.
        grid: from the network's grid to the source.
        box: in voxels of the source array.
    """
    region = _turned(grid, box)
    if any(side.stop <= side.start for side in region):
        return None
    tables, starts, first, shape = [], [], [], []
    for axis, (table, side) in enumerate(zip(source_tables(grid, plan.pads), region, strict=True)):
        low, high = int(table.index[0][side.start]), int(table.index[1][side.stop - 1])
        every = sorted({start[axis] for layer in plan.layers for start in layer})
        wanted = [start for start in every if start <= high and start + plan.roi[axis] > low]
        inner = table.part(side.start, side.stop)
        tables.append(AxisTable(inner.index - wanted[0], inner.fraction))
        starts.append([start - wanted[0] for start in wanted])
        first.append(wanted[0])
        shape.append(wanted[-1] + plan.roi[axis] - wanted[0])
    layers = []
    for begin in starts[plan.axis]:
        x_axis, y_axis, z_axis = ([begin] if axis == plan.axis else starts[axis] for axis in range(3))
        layers.append(tuple((x, y, z) for x in x_axis for y in y_axis for z in z_axis))
    smaller = replace(plan, shape=tuple(shape), pads=(0, 0, 0), layers=tuple(layers))
    return Part(smaller, tuple(first), tuple(tables), region)


def _turned(grid: GridMap, box: Box) -> tuple[slice, ...]:
    """A box of the source array in the network's order of axes, counted from the grid's own box."""
    sides = []
    for axis, source in enumerate(grid.axes):
        low, high = box[source]
        if grid.flips[axis]:
            low, high = grid.source_shape[source] - high, grid.source_shape[source] - low
        low, high = (min(max(v - grid.start[axis], 0), grid.extent[axis]) for v in (low, high))
        sides.append(slice(low, high))
    return tuple(sides)
