"""All scores of one case: each label's metrics, and for each one that cannot be computed the reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.types import LabelXYZ, Spacing

from . import lesions, overlap, surface

# metric -> (group that computes it, unit, +1 when larger is better, -1 when smaller, 0 when neither)
METRICS: dict[str, tuple[str, str, int]] = {
    "dice": ("overlap", "", 1),
    "iou": ("overlap", "", 1),
    "hd95_mm": ("surface", "mm", -1),
    "asd_mm": ("surface", "mm", -1),
    "nsd": ("surface", "", 1),
    "reference_ml": ("volume", "ml", 0),
    "prediction_ml": ("volume", "ml", 0),
    "volume_error_ml": ("volume", "ml", 0),
    "relative_volume_error": ("volume", "", 0),
    "lesions": ("lesion", "", 0),
    "lesions_detected": ("lesion", "", 0),
    "lesions_false": ("lesion", "", -1),
    "lesion_sensitivity": ("lesion", "", 1),
    "lesion_precision": ("lesion", "", 1),
    "lesion_f1": ("lesion", "", 1),
}
SHARE, AT_LEAST_0 = (0.0, 1.0), (0.0, math.inf)
# metric -> smallest and largest possible value; the others have none
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("dice", "iou", "nsd", "lesion_sensitivity", "lesion_precision", "lesion_f1"), SHARE),
    **dict.fromkeys(("hd95_mm", "asd_mm", "reference_ml", "prediction_ml"), AT_LEAST_0),
    **dict.fromkeys(("lesions", "lesions_detected", "lesions_false"), AT_LEAST_0),
    "relative_volume_error": (-1.0, math.inf),
}
MISSING = ("nan", "worst")
GROUPS = ("overlap", "surface", "volume", "lesion")
TOLERANCE_MM = 1.0  # about one voxel of the usual research MR; state the one that your task's observers agree to
DEFINITIONS = {
    "overlap": "dice = 2|A and B| / (|A| + |B|); iou = |A and B| / |A or B|; a label absent from one side scores 0",
    "surface": surface.DEFINITION,
    "volume": "volume error = prediction - reference; relative error = that over the reference's volume",
    "lesion": lesions.DEFINITION,
    "interval": "mean over the cases for which a metric is defined, with its 95 % confidence interval: Student's t over cases, "
    "cut to the values that the metric can have",
    "empty": "a label absent from both sides has no score: it is NaN with a reason and enters no mean",
    "missing": "distances of a label absent from one side: nan = not defined, with the reason; worst = the length of the image's "
    "diagonal in mm",
}


@dataclass(frozen=True)
class LabelScores:
    """Metrics of one label in one case.

    Args:
        values: metric -> number, NaN when it is not defined.
        reasons: metric -> why it is NaN.
    """

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreSettings:
    """What is computed, and how.

    Args:
        groups: any of `overlap`, `surface`, `volume`, `lesion`.
        tolerance_mm: of the surface Dice, in mm.
        min_overlap: share of a lesion's voxels that makes it detected.
        ignore_label: voxels where the reference holds this value are left out everywhere.
        missing: distances of a label that one side lacks: `nan` leaves them undefined with the reason, `worst` takes the
            image's diagonal, so that a missed organ costs something in the mean.
    """

    groups: tuple[str, ...] = GROUPS
    tolerance_mm: float = TOLERANCE_MM
    min_overlap: float = lesions.MIN_OVERLAP
    ignore_label: int | None = None
    missing: str = "nan"

    def __post_init__(self) -> None:
        unknown = set(self.groups) - set(GROUPS)
        if unknown or not self.groups:
            raise ConfigError(f"metric groups are any of {', '.join(GROUPS)}; got {sorted(unknown) or 'none'}")
        if not self.tolerance_mm >= 0:
            raise ConfigError(f"tolerance_mm is {self.tolerance_mm}, expected a number >= 0")
        if self.missing not in MISSING:
            raise ConfigError(f"missing is {self.missing!r}, expected one of {', '.join(MISSING)}")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that the groups give, in table order."""
        return [name for name, (group, _, _) in METRICS.items() if group in self.groups]


def score_case(
    reference: LabelXYZ,
    prediction: LabelXYZ,
    *,
    spacing: Spacing,
    regions: Mapping[str, Sequence[int]],
    known_labels: Collection[int] | None = None,
    settings: ScoreSettings | None = None,
) -> dict[str, LabelScores]:
    """Score one pair of label maps.

    Args:
        reference: integer (X, Y, Z), ground truth.
        prediction: integer, on the same grid.
        spacing: mm per voxel.
        regions: name -> label values; one value for a plain label, several for a region made of them.
        known_labels: values that may occur; by default those of the regions, and 0.
        settings: what to compute.

    Returns:
        region name -> its scores, in the order of `regions`.

    Raises:
        GridMismatchError: the maps differ in shape.
        LabelError: a map holds a value that is not known.
    """
    settings = settings or ScoreSettings()
    known = sorted({0, *(known_labels or ()), *(value for values in regions.values() for value in values)})
    histogram = overlap.joint_histogram(reference, prediction, known, ignore_label=settings.ignore_label)
    if settings.ignore_label is not None:
        ignored = reference == settings.ignore_label
        reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
    place = {value: i for i, value in enumerate(known)}
    counts = {
        name: overlap.label_counts(histogram, [place[value] for value in values]) for name, values in regions.items()
    }
    voxel_ml = float(np.prod(np.asarray(spacing, dtype=np.float64))) / 1000.0
    distances = _all_distances(reference, prediction, regions, spacing) if "surface" in settings.groups else {}
    result = {}
    for name, values in regions.items():
        scores = _overlap_scores(counts[name], voxel_ml)
        if name in distances:
            scores |= _surface_scores(distances[name], settings.tolerance_mm)
        if "lesion" in settings.groups:
            masks = (_mask(reference, values), _mask(prediction, values))
            scores |= _lesion_scores(lesions.count_lesions(*masks, min_overlap=settings.min_overlap))
        if settings.missing == "worst" and (counts[name].reference == 0) != (counts[name].prediction == 0):
            diagonal = math.hypot(*(n * float(step) for n, step in zip(reference.shape, spacing, strict=True)))
            scores |= {metric: diagonal for metric in ("hd95_mm", "asd_mm") if metric in scores}
        chosen = {metric: scores[metric] for metric in settings.metrics}
        reason = counts[name].absent
        undefined = {metric: reason or "not defined" for metric, value in chosen.items() if math.isnan(value)}
        result[name] = LabelScores(chosen, undefined)
    return result


def _mask(array: LabelXYZ, values: Sequence[int]) -> NDArray[np.bool_]:
    return array == values[0] if len(values) == 1 else np.isin(array, list(values))


def _all_distances(
    reference: LabelXYZ, prediction: LabelXYZ, regions: Mapping[str, Sequence[int]], spacing: Spacing
) -> dict[str, surface.SurfaceDistances]:
    """Plain labels share one pass over the voxels; each region of several labels needs its own."""
    plain = {name: values[0] for name, values in regions.items() if len(values) == 1}
    by_value = surface.label_surface_distances(reference, prediction, sorted(set(plain.values())), spacing=spacing)
    found = {name: by_value[value] for name, value in plain.items()}
    for name, values in regions.items():
        if name not in found:
            masks = (_mask(reference, values), _mask(prediction, values))
            found[name] = surface.surface_distances(*masks, spacing=spacing)
    return found


def _overlap_scores(counts: overlap.OverlapCounts, voxel_ml: float) -> dict[str, float]:
    return {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "reference_ml": counts.reference * voxel_ml,
        "prediction_ml": counts.prediction * voxel_ml,
        "volume_error_ml": (counts.prediction - counts.reference) * voxel_ml,
        "relative_volume_error": overlap.relative_volume_error(counts),
    }


def _surface_scores(distances: surface.SurfaceDistances, tolerance_mm: float) -> dict[str, float]:
    return {
        "hd95_mm": surface.hausdorff_distance(distances),
        "asd_mm": surface.average_surface_distance(distances),
        "nsd": surface.surface_dice(distances, tolerance_mm=tolerance_mm),
    }


def _lesion_scores(counts: lesions.LesionCounts) -> dict[str, float]:
    return {
        "lesions": float(counts.reference),
        "lesions_detected": float(counts.detected),
        "lesions_false": float(counts.false_positives),
        "lesion_sensitivity": counts.sensitivity,
        "lesion_precision": counts.precision,
        "lesion_f1": counts.f1,
    }


def heading(metric: str) -> str:
    """A metric's name and unit as a table's header has them, such as `hd95 (mm)`."""
    unit = METRICS[metric][1]
    name = metric.removesuffix(f"_{unit}") if unit else metric
    return name.replace("_", " ") + (f" ({unit})" if unit else "")
