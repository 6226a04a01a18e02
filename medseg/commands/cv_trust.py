"""Learn from out-of-fold predictions how far a bundle's new cases can be trusted: temperature, expected Dice, intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.assurance.calibration import Calibration, Sampled, calibrate
from medseg.assurance.case_trust import CaseTrust, LabelTrust, image_ranges
from medseg.bundle.weights import sha256_of
from medseg.inference.evidence import LabelEvidence, label_evidence
from medseg.io.geometry import spacing_of
from medseg.io.volume import read_label
from medseg.selection.watched import Watched, facts_path
from medseg.transforms.postprocessing import Postprocessing

if TYPE_CHECKING:
    from .cv import CrossValidation


def learn_trust(result: CrossValidation, predicting: Sequence[Path] = ()) -> CaseTrust:
    """What the chosen candidate's out-of-fold cases say; `predicting` are weight files that it holds for beside the folds' own."""
    found = _Cases(result)
    calibration = calibrate(found.samples)
    names = result.bundle.labels
    labels = {
        value: LabelTrust.learned(names[value], found.evidence[value], found.dice[value], found.reference_ml[value])
        for value in found.evidence
    }
    folds = result.folds[result.chosen]
    return CaseTrust(
        _weights(result, predicting),
        round(calibration.temperature, 4),
        labels,
        image_ranges(found.images),
        {key: None if value != value else value for key, value in dataclasses.asdict(calibration).items()},
        len(found.images),
        folds,
        tuple(_notes(result, calibration, len(found.images))),
    )


class _Cases:
    """Per label, evidence, Dice and volume of every out-of-fold case of the chosen candidate."""

    def __init__(self, result: CrossValidation) -> None:
        settings = result.bundle.label_settings
        change = Postprocessing(result.selection.steps)
        scores = {case.name: case for case in result.final.cases}
        names = {value: name for value, name in result.bundle.labels.items() if value}
        self.evidence: dict[int, list[LabelEvidence]] = {value: [] for value in names}
        self.dice: dict[int, list[float]] = {value: [] for value in names}
        self.reference_ml: dict[int, list[float]] = {value: [] for value in names}
        self.images: list[Any] = []
        self.samples: list[Sampled] = []
        for name, path, reference in result.pairs[result.chosen]:
            facts = Watched.read(facts_path(path))
            if facts is None or name not in scores:
                continue
            self.images.append(facts.image)
            if len(facts.truth):
                self.samples.append(Sampled(facts.logits, facts.truth, facts.weight))
            volume, true = read_label(path), read_label(reference)
            values = settings.label_values or range(len(facts.sums["size"]))
            measured = label_evidence(change(volume.array, volume.affine), volume.affine, list(values), facts.sums)
            voxel_ml = float(np.prod(spacing_of(true.affine))) / 1000.0
            for value, label in names.items():
                if value not in measured or label not in scores[name].labels:
                    continue
                self.evidence[value].append(measured[value])
                self.dice[value].append(float(scores[name].labels[label].values["dice"]))
                self.reference_ml[value].append(float(np.count_nonzero(true.array == value)) * voxel_ml)


def _weights(result: CrossValidation, predicting: Sequence[Path]) -> tuple[str, ...]:
    """SHA-256 of the weights of all members and folds that were scored, and of those that predict."""
    folds = result.folds[result.chosen]
    files = [member.layout.fold_weights(fold) for member in result.members[result.chosen] for fold in folds]
    return tuple(sorted({sha256_of(path) for path in (*files, *predicting)}))


def _notes(result: CrossValidation, calibration: Calibration, cases: int) -> Sequence[str]:
    folds, planned = result.folds[result.chosen], practice_folds(result)
    notes = [calibration.note] if calibration.note else []
    if len(folds) == 1:
        notes.append(
            f"One fold of {planned}: all cases were predicted by one network; other folds' networks may differ."
        )
    elif len(folds) > 1:
        notes.append(
            "Learned from single networks of the folds; predict averages them, which errs less than this says."
        )
    if cases < 10:
        notes.append(f"{cases} cases: no interval and no range of images is given below 10.")
    elif cases < 50:
        notes.append(f"{cases} cases: the ends of intervals move by a few percent from one set of cases to another.")
    if result.bundle.label_settings.regions:
        notes.append("Overlapping regions: no temperature is learned.")
    return notes


def practice_folds(result: CrossValidation) -> int:
    """How many folds the bundle's plan has."""
    from medseg.planning.folds import read_splits

    return len(read_splits(result.bundle.folder))
