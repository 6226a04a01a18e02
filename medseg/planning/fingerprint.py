"""Measure a dataset once: shapes, spacings, intensities, labels and their volumes, faults."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.datasets import Dataset, load_case
from medseg.errors import DataError, LabelError
from medseg.io.datalist import Case
from medseg.io.geometry import orientation_of, spacing_of
from medseg.transforms.classes import class_values, classes_of

log = logging.getLogger(__name__)
# Voxels sampled per case for the foreground statistics; the same bound as nnU-Net's order of magnitude, and the
# percentiles of a CT window do not move beyond it.
SAMPLES = 10_000
RAS_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass
class CaseFingerprint:
    """One case, axes in R-A-S order whatever the file's order is.

    Args:
        shape: voxels along R, A, S.
        spacing: mm per voxel along R, A, S.
        orientation: the file's own axis codes.
        label_voxels: label value -> number of voxels.
        label_pieces: label value -> number of connected components (through faces, edges or corners).
        foreground: per channel, sampled intensities of labelled voxels.
        faults: what was odd in the headers and how it was read, one sentence each.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    label_voxels: dict[int, int]
    label_pieces: dict[int, int]
    foreground: list[NDArray[np.float32]]
    faults: tuple[str, ...] = ()


@dataclass
class Fingerprint:
    """What planning knows of a dataset; everything JSON-ready.

    Args:
        cases: number of labelled cases.
        median_shape, median_spacing, smallest_spacing, largest_spacing: along R, A, S, in voxels and mm.
        spacing_p10: 10th percentile of the spacing per axis, in mm.
        label_cases: label value -> cases that hold it.
        label_volume_ml: label value -> median volume in millilitres, over the cases that hold it.
        label_pieces: label value -> {"median", "most"} connected components over the cases that hold it.
        geometry_faults: what was odd in headers and how it was read -> cases; no names, since bundles are handed on.
        intensity: per channel, statistics of labelled voxels (mean, std, p0_5, p99_5, minimum, maximum).
        orientations: axis codes -> number of cases.
    """

    cases: int
    median_shape: list[float]
    median_spacing: list[float]
    smallest_spacing: list[float]
    largest_spacing: list[float]
    spacing_p10: list[float]
    largest_shape: list[int]
    label_cases: dict[int, int]
    label_volume_ml: dict[int, float]
    intensity: list[dict[str, float]]
    orientations: dict[str, int]
    label_pieces: dict[int, dict[str, float]] = field(default_factory=dict)
    geometry_faults: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        for table in ("label_cases", "label_volume_ml", "label_pieces"):  # JSON has no integer keys
            facts[table] = {str(value): entry for value, entry in facts[table].items()}
        return facts


def measure_case(case: Case, dataset: Dataset) -> CaseFingerprint:
    """Read one case, check it, and measure it; raises what `medseg.datasets.load_case` raises."""
    image, label = load_case(case, dataset)
    codes = orientation_of(image.affine)
    order = np.argsort([RAS_AXES[code] for code in codes])
    annotated = label.array
    if dataset.ignore_label is not None:
        annotated = np.where(annotated == dataset.ignore_label, 0, annotated)
    values, counts = np.unique(annotated, return_counts=True)
    inside = np.flatnonzero(annotated.reshape(-1) > 0)
    if len(inside) > SAMPLES:
        inside = np.random.default_rng(0).choice(inside, SAMPLES, replace=False)
    spacing = spacing_of(image.affine)
    return CaseFingerprint(
        name=case.name,
        shape=tuple(int(label.array.shape[axis]) for axis in order),
        spacing=tuple(float(spacing[axis]) for axis in order),
        orientation=codes,
        label_voxels={int(value): int(count) for value, count in zip(values, counts, strict=True) if value > 0},
        label_pieces=_count_pieces(annotated),
        foreground=[
            channel.reshape(-1)[inside if index not in case.missing else []].astype(np.float32)
            for index, channel in enumerate(image.array)
        ],
        faults=tuple(dict.fromkeys([*image.header.warnings, *label.header.warnings])),
    )


def _count_pieces(label: NDArray[np.integer]) -> dict[int, int]:
    """label value -> connected components, each counted in its own bounding box."""
    structure = np.ones((3, 3, 3), dtype=bool)
    values = class_values(value for value in np.unique(label) if value > 0)
    numbers = classes_of(np.where(label > 0, label, 0), values)  # one box for each value up to the largest otherwise
    boxes = ndimage.find_objects(numbers.astype(np.int32, copy=False))
    found = ((number, box) for number, box in enumerate(boxes, start=1) if box is not None)
    return {values[number]: int(ndimage.label(numbers[box] == number, structure)[1]) for number, box in found}


def measure(
    dataset: Dataset,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """Measure every labelled case.

    Raises:
        DataError: the first fault of `measure_case`, with the number of further faulty cases, which are logged.
        LabelError: no case holds any foreground.
    """
    cases = [case for case in dataset.cases if case.label is not None]
    measured: list[CaseFingerprint] = []
    faults: list[DataError] = []

    def one(case: Case) -> CaseFingerprint | DataError:
        try:
            return measure_case(case, dataset)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for done, result in enumerate(pool.map(one, cases), start=1):
            if isinstance(result, DataError):
                faults.append(result)
            else:
                measured.append(result)
            if progress:
                progress(done, len(cases))
    if faults:
        more = f" ({len(faults) - 1} more cases are faulty too, listed above)" if len(faults) > 1 else ""
        for other in faults[1:]:
            log.warning("refused as well: %s", other)
        raise type(faults[0])(f"{faults[0]}{more}")
    if not any(entry.label_voxels for entry in measured):
        raise LabelError(f"all {len(measured)} label maps are empty: there is nothing to learn. Check the label files.")
    return _summarise(measured)


def _summarise(measured: Sequence[CaseFingerprint]) -> Fingerprint:
    shapes = np.array([entry.shape for entry in measured], dtype=np.float64)
    spacings = np.array([entry.spacing for entry in measured], dtype=np.float64)
    seen = sorted({value for entry in measured for value in entry.label_voxels})
    volume_ml = {
        value: float(
            np.median(
                [e.label_voxels[value] * np.prod(e.spacing) / 1000.0 for e in measured if value in e.label_voxels]
            )
        )
        for value in seen
    }
    orientations = [entry.orientation for entry in measured]
    # numbers differ from case to case: one row for "disagree by up to 3.2 mm" and "by up to 7 mm"
    faults = Counter(
        fault for entry in measured for fault in {re.sub(r"\d+(\.\d+)?", "N", text) for text in entry.faults}
    )
    return Fingerprint(
        cases=len(measured),
        median_shape=np.median(shapes, axis=0).tolist(),
        median_spacing=np.median(spacings, axis=0).tolist(),
        smallest_spacing=spacings.min(axis=0).tolist(),
        largest_spacing=spacings.max(axis=0).tolist(),
        spacing_p10=np.percentile(spacings, 10, axis=0).tolist(),
        largest_shape=[int(value) for value in shapes.max(axis=0)],
        label_cases={value: sum(value in entry.label_voxels for entry in measured) for value in seen},
        label_volume_ml=volume_ml,
        intensity=_intensities(measured),
        orientations={code: orientations.count(code) for code in sorted(set(orientations))},
        label_pieces={value: _pieces_of(value, measured) for value in seen},
        geometry_faults=dict(sorted(faults.items())),
    )


def _pieces_of(value: int, measured: Sequence[CaseFingerprint]) -> dict[str, float]:
    counts = [entry.label_pieces[value] for entry in measured if value in entry.label_pieces]
    return {"median": float(np.median(counts)), "most": float(max(counts))}


def _intensities(measured: Sequence[CaseFingerprint]) -> list[dict[str, float]]:
    """Statistics of labelled voxels per channel. Raises DataError for a channel that no case has."""
    intensity = []
    for channel in range(len(measured[0].foreground)):
        pooled = np.concatenate([entry.foreground[channel] for entry in measured])
        if not len(pooled):
            raise DataError(
                f"channel {channel} is missing in every labelled case; remove it from the dataset's channels."
            )
        low, high = np.percentile(pooled, [0.5, 99.5])
        facts = {"mean": pooled.mean(dtype=np.float64), "std": pooled.std(dtype=np.float64), "p0_5": low, "p99_5": high}
        facts |= {"minimum": pooled.min(), "maximum": pooled.max()}
        intensity.append({key: float(value) for key, value in facts.items()})
    return intensity
