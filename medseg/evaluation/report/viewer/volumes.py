"""What the viewer shows of a case: the image in few bytes, label maps on the same grid, a legend, and what was left out.

Voxels are picked, not averaged, so that every value, label and place that the viewer names is one of the file's own.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medseg.errors import printable
from medseg.io.formats.nifti_write import nifti_bytes
from medseg.types import Affine

from ..slices import COLORS, EXTRA, LONGEST, MISSED, ras_affine, ras_spacing, to_ras, where_to_look, window_of

MOST_LABELS = 254  # of their own colour and name; a label map in the page has one byte per voxel
ENOUGH = 4_000_000  # voxels to find a place or a window from
AIR = -900.0  # Hounsfield units: an image with values below is taken for a CT
CT_WINDOWS = (("soft tissue", -160.0, 240.0), ("lung", -1350.0, 150.0), ("bone", -500.0, 1300.0), ("brain", 0.0, 80.0))


@dataclass(frozen=True)
class Limits:
    """How much of a volume a page carries.

    Attributes:
        voxels: at most; a longer grid is thinned out, along its finest axes first.
        longest: voxels along one axis at most.
        packed: bytes of the compressed volumes together at most, 0 for any.
        cropped: only the surroundings of the labels.
        stored: type of the image's numbers.
    """

    voxels: int
    longest: int = 1024
    packed: int = 0
    cropped: bool = True
    stored: type[np.uint8] | type[np.int16] = np.uint8


EMBEDDED = Limits(voxels=3_000_000, packed=450_000)


@dataclass(frozen=True)
class ViewerCase:
    """One case: `volumes` are NIfTI bytes by kind (image, prediction, reference, disagreement), `facts` what JSON can hold."""

    volumes: Mapping[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Scan(NamedTuple):
    """An image (X, Y, Z) and its label maps on one grid; either or both maps may be None."""

    image: ArrayLike
    prediction: NDArray[np.integer] | None
    reference: NDArray[np.integer] | None
    affine: Affine


def viewer_case(
    title: str,
    anchor: str,
    scan: Scan,
    labels: Mapping[int, str],
    *,
    limits: Limits = EMBEDDED,
    notes: Sequence[str] = (),
    counts: Mapping[str, Mapping[int, int]] | None = None,
) -> ViewerCase:
    """A case as the viewer takes it.

    Args:
        title: shown above the planes.
        anchor: id of the figure whose picture the viewer replaces.
        scan: image and label maps.
        labels: value -> name; a value without a name is shown and called undeclared.
        limits: how much the page may carry.
        notes: further sentences below the planes.
        counts: `voxel_counts` of each map, where they are known already.
    """
    image = to_ras(np.asarray(scan.image), scan.affine)
    given = {"prediction": scan.prediction, "reference": scan.reference}
    maps = {kind: to_ras(np.asarray(array), scan.affine) for kind, array in given.items() if array is not None}
    affine, spacing = ras_affine(scan.affine, np.asarray(scan.image).shape), ras_spacing(scan.affine)
    if counts is None:
        counts = {kind: voxel_counts(np.asarray(array)) for kind, array in given.items() if array is not None}
    values = sorted({value for found in counts.values() for value in found} - {0})
    focus, box = _focus(maps, image.shape, spacing, limits.cropped)
    budget = limits.voxels
    while True:
        cut = _cut(box, spacing, budget, limits.longest)
        picked = _pick(image, maps, cut, values, limits.stored)
        volumes = dict(zip(picked.kinds, _bytes(picked, affine, cut), strict=True))
        packed = sum(len(gzip.compress(volume, 9)) for volume in volumes.values()) if limits.packed else 0
        if packed <= limits.packed or budget < 1000:
            break
        budget = int(min(budget, picked.image.size) * min(0.9, limits.packed / packed))
    inside, ml = _cut_affine(affine, cut), abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    facts = {
        "title": printable(title),
        "anchor": anchor,
        "notes": [*notes, *_notes(image.shape, cut, limits, picked)],
        "windows": _windows(picked, float(np.nanmin(image))),
        "labels": _legend(values, labels, counts, ml, picked, inside),
        "differences": [{"index": 1, "color": MISSED, "name": "missed"}, {"index": 2, "color": EXTRA, "name": "extra"}],
        "focus": (affine @ [*_nearest(focus, cut), 1.0])[:3].tolist(),
        "nearest": max(picked.image.shape) <= 64,
    }
    return ViewerCase(volumes, facts)


def thinned(scan: Scan, voxels: int) -> Scan:
    """The whole scan with no more voxels than these, axes towards right, anterior, superior."""
    image = to_ras(np.asarray(scan.image), scan.affine)
    cut = _cut([slice(0, size) for size in image.shape], ras_spacing(scan.affine), voxels, max(image.shape))

    def of(array: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if array is None else to_ras(np.asarray(array), scan.affine)[cut]

    affine = ras_affine(scan.affine, np.asarray(scan.image).shape)
    return Scan(image[cut], of(scan.prediction), of(scan.reference), _cut_affine(affine, cut))


def _focus(
    maps: Mapping[str, NDArray[Any]], shape: Sequence[int], spacing: Sequence[float], cropped: bool
) -> tuple[list[int], tuple[slice, ...]]:
    """The voxel to begin at, and the part to show; of a whole volume the former is sought in every `step`-th voxel."""
    step = 1 if cropped else _coarse(math.prod(shape))
    coarse = [array[::step, ::step, ::step] for array in maps.values()]
    place, box = where_to_look(coarse, [math.ceil(n / step) for n in shape], [mm * step for mm in spacing], cropped)
    return [at * step for at in place], box if cropped else tuple(slice(0, n) for n in shape)


@dataclass(frozen=True, eq=False)
class _Picked:
    """Voxels of the page: numbers as stored, `value = slope * number + intercept`, and maps of indices into the legend."""

    image: NDArray[Any]
    slope: float
    intercept: float
    maps: Mapping[str, NDArray[np.uint8]]

    @property
    def kinds(self) -> list[str]:
        return ["image", *self.maps]


def _cut(box: Sequence[slice], spacing: Sequence[float], voxels: int, longest: int) -> tuple[slice, ...]:
    """The box with steps, so that no more than `voxels` are left; the finest axis gets the next step."""
    steps = [max(1, math.ceil((part.stop - part.start) / longest)) for part in box]

    def sizes() -> list[int]:
        return [math.ceil((part.stop - part.start) / step) for part, step in zip(box, steps, strict=True)]

    while math.prod(sizes()) > voxels:
        axis = min((a for a in range(3) if sizes()[a] > 1), key=lambda a: spacing[a] * steps[a])
        steps[axis] += 1
    starts = [min(part.start + step // 2, part.stop - 1) for part, step in zip(box, steps, strict=True)]
    return tuple(slice(start, part.stop, step) for start, part, step in zip(starts, box, steps, strict=True))


def _cut_affine(affine: Affine, cut: Sequence[slice]) -> Affine:
    """Voxel of the cut -> world mm."""
    inner = np.diag([*(float(part.step) for part in cut), 1.0])
    inner[:3, 3] = [part.start for part in cut]
    return np.asarray(affine @ inner)


def _pick(
    image: NDArray[Any], maps: Mapping[str, NDArray[Any]], cut: tuple[slice, ...], values: Sequence[int], stored: type
) -> _Picked:
    part = np.asarray(image[cut], np.float32)
    low, high = (float(part.min()), float(part.max())) if part.size else (0.0, 1.0)
    if stored is np.uint8:
        low, high = (float(end) for end in np.percentile(part.astype(np.float64), [0.05, 99.95]))
    picked = part.astype(np.int16) if stored is np.int16 and max(abs(low), abs(high)) < 32767 else part
    if picked is not part and np.array_equal(picked, part):
        slope, intercept = 1.0, 0.0
    else:
        top = 255 if stored is np.uint8 else 32767
        slope, intercept = (high - low or 1.0) / top, low
        picked = np.round((part.clip(low, high) - low) / slope).astype(stored)
    indexed = {kind: _indices(array[cut], values) for kind, array in maps.items()}
    if len(indexed) == 2:
        missed, extra = indexed["reference"] != 0, indexed["prediction"] != 0
        wrong = indexed["reference"] != indexed["prediction"]
        indexed["disagreement"] = np.where(wrong & missed, 1, np.where(wrong & extra, 2, 0)).astype(np.uint8)
    return _Picked(picked, slope, intercept, indexed)


def _indices(array: NDArray[Any], values: Sequence[int]) -> NDArray[np.uint8]:
    """Places in the legend, from 1; those beyond the last place share it."""
    if not values:
        return np.zeros(array.shape, np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:  # a table is ten times faster than a search
        table = np.zeros(np.iinfo(array.dtype).max + 1, np.uint8)
        table[list(values)] = np.minimum(np.arange(1, len(values) + 1), MOST_LABELS + 1)
        return table[array]
    places = np.minimum(np.searchsorted(values, array) + 1, MOST_LABELS + 1).astype(np.uint8)
    return np.where(array == 0, np.uint8(0), places)


def _bytes(picked: _Picked, affine: Affine, cut: Sequence[slice]) -> list[bytes]:
    place = _cut_affine(affine, cut)
    image = nifti_bytes(picked.image, place, slope=picked.slope, intercept=picked.intercept)
    return [image, *(nifti_bytes(array, place) for array in picked.maps.values())]


def voxel_counts(array: NDArray[Any]) -> dict[int, int]:
    """Voxels per value; slab by slab and in the order of memory, since sorting, widening or turning a whole CT takes long."""
    counts: dict[int, int] = {}
    slabs = np.moveaxis(array, int(np.argmax(np.abs(array.strides))), 0)
    for begin in range(0, len(slabs), 16):
        slab = slabs[begin : begin + 16].ravel(order="K")
        if slab.dtype.kind == "u" and slab.dtype.itemsize <= 2:
            found = np.bincount(slab)
            values, numbers = np.flatnonzero(found), found[found > 0]
        else:
            values, numbers = np.unique(slab, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + number
    return counts


def _legend(
    values: Sequence[int], labels: Mapping[int, str], counts: Mapping[str, Mapping[int, int]], ml: float, picked: _Picked,
    affine: Affine,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line per label: colour, name, millilitres on the whole grid, and a place inside it in mm."""
    rows: list[dict[str, Any]] = []
    places = _places(picked.maps)
    for index, value in enumerate(values, start=1):
        name = labels.get(value, f"{value} (undeclared: no name is known for it)")
        row: dict[str, Any] = {"index": index, "color": COLORS[(index - 1) % len(COLORS)], "name": printable(name)}
        for kind in ("prediction", "reference"):
            row[kind] = f"{counts[kind].get(value, 0) * ml:.3g} ml" if kind in counts else ""
        row["place"] = (affine @ [*places[index], 1.0])[:3].tolist() if index in places else None
        rows.append(row)
    if len(rows) > MOST_LABELS:
        last = {
            **rows[MOST_LABELS],
            "name": f"{len(rows) - MOST_LABELS} further values",
            "prediction": "",
            "reference": "",
        }
        rows = [*rows[:MOST_LABELS], last]
    return [{**row, "name": row["name"][:LONGEST]} for row in rows]


def _places(maps: Mapping[str, NDArray[np.uint8]]) -> dict[int, tuple[int, ...]]:
    """Index of the legend -> a voxel inside that label, in the middle of its largest slice; the prediction's if it has one."""
    found: dict[int, tuple[int, ...]] = {}
    for kind in ("prediction", "reference"):
        if kind in maps:
            # most labels of a large map are found in every few voxels of it, at a fraction of the time
            for step in {_coarse(maps[kind].size): None, 1: None}:
                found = {**_places_of(maps[kind][::step, ::step, ::step], step), **found}
                if len(found) == int(maps[kind].max(initial=0)):
                    break
    return found


def _places_of(indices: NDArray[np.uint8], step: int) -> dict[int, tuple[int, ...]]:
    found = {}
    for index, box in enumerate(ndimage.find_objects(indices), start=1):
        if box is None:
            continue
        inside = indices[box] == index
        z = int(inside.sum(axis=(0, 1)).argmax())
        x, y = np.argwhere(inside[:, :, z])[int(inside[:, :, z].sum()) // 2].tolist()
        found[index] = tuple(step * (part.start + at) for part, at in zip(box, (x, y, z), strict=True))
    return found


def _coarse(voxels: int) -> int:
    """Every how many voxels along each axis make `ENOUGH`."""
    return max(1, math.ceil((voxels / ENOUGH) ** (1 / 3)))


def _nearest(focus: Sequence[int], cut: Sequence[slice]) -> list[int]:
    """The picked voxel next to one of the whole grid, as an index of the whole grid."""
    ends = (len(range(part.start, part.stop, part.step)) - 1 for part in cut)
    return [
        part.start + part.step * min(max(round((at - part.start) / part.step), 0), end)
        for at, part, end in zip(focus, cut, ends, strict=True)
    ]


def _windows(picked: _Picked, lowest: float) -> list[tuple[str, float, float]]:
    """Name, lower and upper end of the windows to choose from, the first to begin with."""
    some = (slice(None, None, _coarse(picked.image.size)),) * 3
    values = picked.image[some] * np.float32(picked.slope) + np.float32(picked.intercept)
    least, most = float(values.min()), float(values.max())
    low, high = window_of(values)
    windows = [("as in the picture", low, high), ("all values", least, most)]
    marked = np.any([array[some] != 0 for array in picked.maps.values()], axis=0) if picked.maps else np.zeros(1, bool)
    if marked.any():
        low, high = (float(end) for end in np.percentile(values[marked], [1, 99]))
        windows.append(("the labelled part", low, high))
    if lowest <= AIR:
        windows += CT_WINDOWS
    ends = [(name, float(f"{low:.5g}"), float(f"{high:.5g}")) for name, low, high in windows]
    return [(name, low, high if high > low else low + max(1.0, abs(low) * 1e-3)) for name, low, high in ends]


def _notes(shape: Sequence[int], cut: Sequence[slice], limits: Limits, picked: _Picked) -> list[str]:
    """What is not shown as it is in the files."""
    whole, shown = "x".join(map(str, shape)), "x".join(map(str, picked.image.shape))
    notes = []
    if any(part.start >= part.step or part.stop < size for part, size in zip(cut, shape, strict=True)):
        notes.append(f"Cropped to the surroundings of the labels: a part of {whole} voxels.")
    steps = [part.step for part in cut]
    if max(steps) > 1:
        words = ", ".join(f"{['each', 'every second', 'every third'][s - 1] if s < 4 else f'every {s}th'} voxel along {axis}"
                          for s, axis in zip(steps, ("left-right", "back-front", "feet-head"), strict=True))  # fmt: skip
        notes.append(f"Thinned out to {shown} voxels for this page ({words}); volumes are of all voxels.")
    if picked.image.dtype == np.uint8:
        notes.append(f"Intensities are rounded to steps of {picked.slope:.3g}.")
    return notes
