"""Windows in, labels on the source grid out, while only a slab of logits exists.

Windows are visited layer by layer along one axis. When a layer is complete, no later window touches the planes before
the next layer's start: they are divided by the weights, resampled to the source grid and reduced to labels in one pass,
and their memory is used again (a ring). So memory is classes x slab, and every voxel's sum is taken in the same order
whatever the slab's extent: the labels are identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.transforms.classes import label_dtype
from medseg.transforms.grid import GridMap
from medseg.transforms.regions import labels_of_regions
from medseg.transforms.restoring import source_tables
from medseg_kernels import AxisTable, stitch_labels, stitch_logits, stitch_window

from .confidence import PLANES, Watcher
from .places import axis_starts, even_starts, padding, window_size

Start = tuple[int, int, int]


@dataclass(frozen=True)
class WindowPlan:
    """All windows of one volume, in the order of visit.

    Args:
        shape: padded network grid.
        pads: voxels added in front of each axis.
        roi: extent of a window.
        axis: the axis that layers follow.
        layers: per layer the windows' first voxels.
    """

    shape: tuple[int, ...]
    pads: tuple[int, ...]
    roi: tuple[int, ...]
    axis: int
    layers: tuple[tuple[Start, ...], ...]

    @property
    def count(self) -> int:
        return sum(len(layer) for layer in self.layers)

    @property
    def least_planes(self) -> int:
        """Planes of the smallest slab that works: a window, and one plane that the next source voxels lean on."""
        return min(self.shape[self.axis], self.roi[self.axis] + 1)

    def slab_voxels(self, planes: int | None = None) -> int:
        """Voxels of a slab with so many planes (the least by default)."""
        extents = list(self.shape)
        extents[self.axis] = min(extents[self.axis], max(planes or 0, self.least_planes))
        return int(np.prod(extents))


def plan_windows(
    shape: Sequence[int],
    roi_size: Sequence[int],
    overlap: Sequence[float],
    *,
    axis: int | None = None,
    placement: str = "regular",
) -> WindowPlan:
    """Where the windows of a volume lie. The layers' axis is the one that makes the slab smallest, unless named.

    Args:
        shape: (X, Y, Z) of the network's grid.
        roi_size: extent of a window, three values.
        overlap: shared fraction per axis.
        placement: `regular` (MONAI's) or `even` (nnU-Net's), see `axis_starts`.
    """
    roi = window_size(roi_size, shape)
    pads = padding(shape, roi)
    padded = tuple(size + before + after for size, (before, after) in zip(shape, pads, strict=True))
    if axis is None:
        axis = max(range(3), key=lambda a: (padded[a] / (roi[a] + 1), a))
    place = even_starts if placement == "even" else axis_starts
    starts = [place(size, extent, share) for size, extent, share in zip(padded, roi, overlap, strict=True)]
    layers = []
    for first in starts[axis]:
        layer_axes = [[first] if a == axis else starts[a] for a in range(3)]
        layers.append(tuple((x, y, z) for x in layer_axes[0] for y in layer_axes[1] for z in layer_axes[2]))
    return WindowPlan(padded, tuple(before for before, _ in pads), roi, axis, tuple(layers))


class Slab:
    """The ring of planes in which logits accumulate.

    Args:
        classes: K.
        plan: of the windows.
        weights: importance map of one window.
        planes: planes held; at least `plan.least_planes`.
        dtype: float32, or float16 to halve the memory (sums are still taken in float32).
        device: where it lies.
        regions: the channels are overlapping regions and not classes of which one wins.
        absolute: keep the channels' own values in a float16 slab; else they are stored relative to the largest one of their
            voxel, which changes neither labels nor the softmax and keeps close ones apart.
    """

    def __init__(
        self,
        classes: int,
        plan: WindowPlan,
        weights: torch.Tensor,
        *,
        planes: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        regions: bool = False,
        absolute: bool = False,
    ) -> None:
        self.regions = regions
        self.relative = dtype == torch.float16 and not regions and not absolute
        extents = list(plan.shape)
        extents[plan.axis] = min(extents[plan.axis], max(planes or 0, plan.least_planes))
        self.plan = plan
        self.values = torch.zeros((classes, *extents), dtype=dtype, device=device)
        self.weight = torch.zeros(tuple(extents), dtype=torch.float32, device=device)
        self.importance = weights.to(device)
        self.first = 0  # lowest plane still held

    @property
    def planes(self) -> int:
        return int(self.weight.shape[self.plan.axis])

    @property
    def classes(self) -> int:
        return int(self.values.shape[0])

    def complete(self, upto: int) -> None:
        """Told that no window will touch the planes below `upto` any more; called before they are read."""

    def add(self, logits: torch.Tensor, start: Start) -> None:
        """Add one window's logits (K, x, y, z)."""
        logits = logits.to(self.values.device)
        offset = logits.amax(dim=0).float() if self.relative else None
        stitch_window(self.values, self.weight, logits, self.importance, start, offset=offset)

    def labels(self, tables: Sequence[AxisTable]) -> torch.Tensor:
        """Labels of a block of the source grid, on the CPU."""
        return stitch_labels(self.values, self.weight, *tables).cpu()

    def logits(self, tables: Sequence[AxisTable]) -> torch.Tensor:
        """Blended logits (K, ...) of a block of the source grid, on the CPU."""
        return stitch_logits(self.values, self.weight, *tables).cpu()

    def release(self, upto: int) -> None:
        """Forget the planes below `upto`; their memory is zeroed for the planes to come."""
        axis = self.plan.axis
        for at, count in self._runs(self.first, min(upto, self.plan.shape[axis])):
            self.values.narrow(axis + 1, at, count).zero_()
            self.weight.narrow(axis, at, count).zero_()
        self.first = max(self.first, upto)

    def _runs(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where planes begin .. end - 1 are stored: (first stored plane, number of planes) of each piece of the ring."""
        while begin < end:
            at = begin % self.planes
            count = min(end - begin, self.planes - at)
            yield at, count
            begin += count


class ProbabilityMap:
    """Probabilities of all classes on the source grid, float16, for who asked for them: K x volume of memory.

    Args:
        softmax: turn logits into probabilities; an ensemble that averages probabilities has them already.
        regions: overlapping regions, one sigmoid each.
    """

    def __init__(self, *, softmax: bool = True, regions: bool = False) -> None:
        self.softmax, self.regions = softmax, regions
        self.values: NDArray[np.float16] | None = None

    def restart(self) -> None:
        """Forget everything."""
        self.values = None

    def put(self, grid: GridMap, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        """Store one block; outside a cut box background is certain."""
        if self.values is None:
            self.values = np.zeros((logits.shape[0], *grid.source_shape), dtype=np.float16)
            self.values[0] = 0.0 if self.regions else 1.0
        if self.regions:
            block = logits.sigmoid()
        else:
            block = logits.softmax(dim=0) if self.softmax else logits
        for k in range(block.shape[0]):
            grid.cut(grid.turn(self.values[k]))[place] = block[k].half().numpy()


def batches(plan: WindowPlan, layer: tuple[Start, ...], size: int) -> Iterator[tuple[Start, ...]]:
    """Windows of one layer in groups of at most `size`."""
    for begin in range(0, len(layer), size):
        yield layer[begin : begin + size]


@dataclass(frozen=True)
class Target:
    """Where labels go: the source grid or a box of it, and which network voxels make each of its voxels.

    Args:
        grid: from the network's grid back to the source.
        tables: per axis of the network.
        region: the box in turned and cut source voxels; None for all.
    """

    grid: GridMap
    tables: tuple[AxisTable, ...]
    region: tuple[slice, ...] | None = None

    @classmethod
    def whole(cls, grid: GridMap, plan: WindowPlan) -> Target:
        """All of the source grid."""
        return cls(grid, tuple(source_tables(grid, plan.pads)))

    def place(self, axis: int, begin: int, end: int) -> tuple[slice, ...]:
        """Planes begin .. end - 1 of the region, in turned and cut source voxels."""
        sides = self.region or (slice(None),) * 3
        offset = sides[axis].start or 0
        return tuple(slice(offset + begin, offset + end) if a == axis else side for a, side in enumerate(sides))


def stream_labels(
    plan: WindowPlan,
    target: Target,
    logits_of: Callable[[tuple[Start, ...]], torch.Tensor],
    make_slab: Callable[[int], Slab],
    *,
    window_batch: int = 1,
    label_values: NDArray[np.integer] | None = None,
    advance: Callable[[int], None] | None = None,
    watchers: Sequence[Watcher] = (),
) -> NDArray[np.integer]:
    """Run all windows and return the label map of the source grid.

    Args:
        plan: of the windows.
        target: where labels go.
        logits_of: windows' first voxels -> (B, K, x, y, z).
        make_slab: number of classes -> an empty slab.
        window_batch: windows per call.
        label_values: (K,) label of each class; 0, 1, 2 ... by default. With a slab of regions, what each of them writes.
        advance: called with the number of windows done since the last call.
        watchers: told the logits of the source grid as they become whole, such as a `ProbabilityMap`; labels are the same.

    Returns:
        (X, Y, Z) of `target.grid.source_shape`; 0 outside a cut box and outside the region.
    """
    slab: Slab | None = None
    output: NDArray[np.integer] | None = None
    done = 0
    for number, layer in enumerate(plan.layers):
        for starts in batches(plan, layer, window_batch):
            logits = logits_of(starts)
            if slab is None or output is None:
                slab = make_slab(int(logits.shape[1]))
                output = np.zeros(target.grid.source_shape, dtype=_output_type(slab.classes, label_values))
            for window, start in zip(logits, starts, strict=True):
                slab.add(window, start)
            del logits
            if advance is not None:
                advance(len(starts))
        assert slab is not None
        assert output is not None
        last = number + 1 == len(plan.layers)
        complete = plan.shape[plan.axis] if last else plan.layers[number + 1][0][plan.axis]
        if last or complete + plan.roi[plan.axis] - slab.first > slab.planes:
            done = _flush(slab, plan, target, output, done, complete, label_values, watchers)
    assert output is not None
    return output


def _output_type(classes: int, label_values: NDArray[np.integer] | None) -> type[np.unsignedinteger]:
    return label_dtype(classes - 1 if label_values is None else int(label_values.max()))


def _flush(
    slab: Slab,
    plan: WindowPlan,
    target: Target,
    output: NDArray[np.integer],
    done: int,
    complete: int,
    label_values: NDArray[np.integer] | None,
    watchers: Sequence[Watcher],
) -> int:
    """Reduce the source planes whose network planes are all complete; returns the first source plane not yet done."""
    axis, tables = plan.axis, target.tables
    second = tables[axis].index[1]
    end = int(torch.searchsorted(second.contiguous(), complete, right=False))
    slab.complete(complete)
    if end > done:
        parts = [table.part(done, end) if a == axis else table for a, table in enumerate(tables)]
        if slab.regions and label_values is not None:
            labels = labels_of_regions(slab.logits(parts), label_values.tolist()).numpy()
        else:
            labels = slab.labels(parts).numpy()
            if label_values is not None:
                labels = label_values.astype(output.dtype)[labels]
        place = target.place(axis, done, end)
        target.grid.cut(target.grid.turn(output))[place] = labels
        if watchers:
            _watch(slab, target, (done, end), axis, watchers)
    following = int(tables[axis].index[0][end]) if end < len(second) else complete
    slab.release(min(following, complete))
    return max(done, end)


def _watch(slab: Slab, target: Target, planes: tuple[int, int], axis: int, watchers: Sequence[Watcher]) -> None:
    """Show the watchers some planes of the source grid, few at a time so that no copy of the slab is made."""
    for begin in range(*planes, PLANES):
        end = min(begin + PLANES, planes[1])
        parts = [table.part(begin, end) if a == axis else table for a, table in enumerate(target.tables)]
        logits = slab.logits(parts)
        for watcher in watchers:
            watcher.put(target.grid, target.place(axis, begin, end), logits)
