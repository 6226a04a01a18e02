"""`medseg stress`: Dice of a bundle as scans differ more and more from those it was trained on."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.assurance.stress_curves import StressCurve, stress_section
from medseg.bars import progress_bar
from medseg.bundle.load import Bundle, Trust, load_bundle
from medseg.cases.batch import Segmenter
from medseg.datasets import Dataset, load_case, open_dataset
from medseg.errors import ConfigError, DataError, nearest
from medseg.evaluation import ScoreSettings
from medseg.evaluation.report.page import write_report
from medseg.evaluation.scores import score_case
from medseg.inference.settings import PredictOptions
from medseg.io import Volume
from medseg.io.atomic import write_json
from medseg.io.datalist import Case
from medseg.io.geometry import spacing_of
from medseg.io.header import Header
from medseg.io.synthetic import synthetic_among
from medseg.transforms.shifts import Scan, Shift, shifts_for
from medseg.types import FilePath


@dataclass(frozen=True)
class Asked:
    """What is tried.

    Args:
        shifts: names; all that fit the images by default.
        cases: names; by default those that the bundle's first fold did not train on, all where it says nothing of them.
        seed: of everything random; a case is shifted alike whatever else is tried.
    """

    shifts: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Stressed:
    """Curves of a bundle, the cases behind them, and what a reader must know."""

    bundle: str
    cases: tuple[str, ...]
    curves: tuple[StressCurve, ...]
    notes: tuple[str, ...]
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "bundle": self.bundle,
            "cases": list(self.cases),
            "seed": self.seed,
            "notes": list(self.notes),
            "curves": [curve.as_dict() for curve in self.curves],
        }

    def write(self, folder: FilePath) -> None:
        """Write stress.json and report.html into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "stress.json", json.loads(json.dumps(self.as_dict(), allow_nan=False)))
        section = stress_section(self.curves, notes=self.notes)
        subtitle = f"{self.bundle}, {len(self.cases)} cases"
        write_report(folder / "report.html", "Stress", [section], subtitle=subtitle)


def stress(
    bundle: FilePath,
    data: FilePath,
    asked: Asked | None = None,
    *,
    options: PredictOptions | None = None,
    trust: Trust = False,
) -> Stressed:
    """Predict cases under shifts of growing strength and score them.

    Args:
        bundle: a trained one.
        data: a labelled data set.
        asked: shifts, cases and seed.
        options: how to predict; a fold's network where the cases are that fold's.
        trust: see `medseg.bundle.load.load_bundle`.

    Raises:
        ConfigError: an unknown shift, or one that says nothing about such images.
        DataError: an unknown case, synthetic cases, other channels or labels than the bundle's.
    """
    from medseg.bundle.predictor import make_segmenter

    asked = asked or Asked()
    opened = load_bundle(str(bundle), trust=trust)
    shifts = _chosen(shifts_for(opened.channels), asked.shifts, opened)
    dataset = open_dataset(data)
    cases, notes = _cases(opened, dataset, asked.cases)
    regions = _regions(opened, dataset)
    total = len(cases) * (1 + sum(len(shift.strengths) for shift in shifts.values()))
    segmenter = make_segmenter(opened, options or PredictOptions(), cases=total)
    found: dict[str, list[list[float]]] = {
        name: [[] for _ in range(1 + len(shift.strengths))] for name, shift in shifts.items()
    }
    done = 0
    with progress_bar("stressing", total, unit="prediction") as advance:
        for case in cases:
            scan = _scan(case, dataset)
            untouched = _dice(segmenter, scan, regions, dataset.ignore_label)
            advance(done := done + 1)
            for name, shift in shifts.items():
                found[name][0].append(untouched)
                for number, strength in enumerate(shift.strengths, start=1):
                    shifted = shift.apply(scan, strength, _random(asked.seed, case.name, name))
                    found[name][number].append(_dice(segmenter, shifted, regions, dataset.ignore_label))
                    advance(done := done + 1)
    curves = tuple(StressCurve.of(name, shift, found[name]) for name, shift in shifts.items())
    return Stressed(opened.name, tuple(case.name for case in cases), curves, tuple(notes), asked.seed)


def _chosen(fitting: Mapping[str, Shift], names: Sequence[str], bundle: Bundle) -> dict[str, Shift]:
    if unknown := [name for name in names if name not in fitting]:
        channels = ", ".join(bundle.channels.values())
        raise ConfigError(
            f"shift {unknown[0]!r}: none for images of {channels}; there are {', '.join(fitting)}. "
            f"{nearest(unknown[0], list(fitting))}"
        )
    return {name: shift for name, shift in fitting.items() if not names or name in names}


def _cases(bundle: Bundle, dataset: Dataset, names: Sequence[str]) -> tuple[list[Case], list[str]]:
    """The cases to try, and a note where the network was trained on some of them."""
    labelled = [case for case in dataset.cases if case.label is not None]
    known = {case.name for case in labelled}
    if unknown := sorted(set(names) - known):
        raise DataError(f"{dataset.folder}: has no labelled case {unknown[0]!r}; it has {', '.join(sorted(known)[:5])}")
    splits = bundle.plan.splits if bundle.plan is not None else []
    held_out = set(splits[0]["val"]) if splits else set()
    trained = set(splits[0]["train"]) if splits else set()
    wanted = set(names) or (known & held_out) or (known - trained) or known
    if marked := synthetic_among(case.images[0] for case in labelled if case.name in wanted):
        raise DataError(f"{dataset.folder}: {len(marked)} cases such as {marked[0]} are synthetic; name real ones")
    notes = []
    if seen := len(wanted & trained):
        notes.append(f"{seen} of {len(wanted)} cases have names that this bundle's first fold trained on.")
    if not trained and not held_out:
        notes.append("The bundle does not say which cases it was trained on.")
    return [case for case in labelled if case.name in wanted], notes


def _regions(bundle: Bundle, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """What is scored: the bundle's labels, which the data must declare under the same values."""
    found: dict[str, tuple[int, ...]] = {}
    for value, name in bundle.labels.items():
        if value == 0 or value == dataset.ignore_label:
            continue
        if value not in dataset.labels:
            raise DataError(
                f"{dataset.folder}: declares the labels {_named(dataset.labels)}; {bundle.name} predicts {_named(bundle.labels)}. "
                "Renumber the label maps, or name data with the bundle's labels"
            )
        found[name] = (value,)
    return found


def _named(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in labels.items() if value)


def _scan(case: Case, dataset: Dataset) -> Scan:
    image, label = load_case(case, dataset)
    return Scan(np.asarray(image.array, dtype=np.float32), image.affine, np.asarray(label.array))


def _dice(segmenter: Segmenter, scan: Scan, regions: Mapping[str, Sequence[int]], ignore: int | None) -> float:
    header = Header.of_array(scan.image.shape, scan.affine)
    volume = Volume(np.ascontiguousarray(scan.image), scan.affine, header)
    label = scan.on_reference(segmenter.segment(segmenter.prepare(volume)))
    settings = ScoreSettings(groups=("overlap",), ignore_label=ignore)
    known = np.union1d(np.unique(scan.reference), np.unique(label)).tolist()
    scores = score_case(
        scan.reference, label, spacing=spacing_of(scan.affine), regions=regions, known_labels=known, settings=settings
    )
    values = [one.values["dice"] for one in scores.values() if not math.isnan(one.values["dice"])]
    return float(np.mean(values)) if values else math.nan


def _random(seed: int, case: str, shift: str) -> np.random.Generator:
    """The same numbers for all strengths of a shift of a case, so that a curve shows the strength alone."""
    words = [zlib.crc32(text.encode("utf-8", "surrogateescape")) for text in (case, shift)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))
