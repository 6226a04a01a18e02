"""What `configs/trust.json` would hold on real cases: learned on half of a bundle's held-out cases, tried on the others.

    python benchmarks/case_trust.py BUNDLE --data DIR [--cases N] [--output FILE]

The other half is predicted as it is, and at the strongest strength of every shift of `medseg stress`. Told are: coverage of the
intervals, calibration error before and after on the cases that the temperature was not learned on, flags among cases as they are with
Dice of 0.6 or more, flags among shifted cases with Dice below 0.6, the area under the risk-coverage curve of expected Dice and of the
network's own expectation, and seconds of a prediction with and without. Writes benchmarks/results/case_trust-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from medseg.assurance.calibration import Sampled, best_temperature, calibration_error, reliability
from medseg.assurance.case_trust import CaseTrust, LabelTrust, image_ranges
from medseg.assurance.risk_coverage import normalised_area
from medseg.bundle.load import load_bundle
from medseg.bundle.predictor import make_segmenter
from medseg.commands.stress import _cases, _random, _scan
from medseg.datasets import open_dataset
from medseg.inference.evidence import CaseEvidence, image_facts, label_evidence
from medseg.inference.settings import PredictOptions
from medseg.inference.windows.confidence import LogitSamples
from medseg.io import Volume
from medseg.io.header import Header
from medseg.selection.watched import _voxels
from medseg.transforms.shifts import shifts_for

RESULT = Path(__file__).parent / "results" / "case_trust-cpu.json"


class Bench:
    """One bundle, and what its network says of scans."""

    def __init__(self, folder: str) -> None:
        self.bundle = load_bundle(folder)
        self.values = self.bundle.label_values
        options = PredictOptions(engine="eager")
        self.watching = make_segmenter(self.bundle, options, confidence=True)
        self.plain = make_segmenter(self.bundle, options)

    def look(self, scan: Any, *, sample: bool = False) -> dict[str, Any]:
        """Evidence, Dice and true volume per label of a scan."""
        volume = Volume(np.ascontiguousarray(scan.image), scan.affine, Header.of_array(scan.image.shape, scan.affine))
        prepared: Any = self.watching.prepare(volume)
        facts = image_facts(prepared.image)
        truth, weight = _voxels(scan.reference, None)
        watcher = LogitSamples(weight > 0) if sample else None
        label = self.watching.segment(prepared, watchers=[watcher] if watcher else [])  # type: ignore[call-arg]
        evidence = label_evidence(label, scan.affine, self.values, self.watching.confidence)  # type: ignore[attr-defined]
        whole = scan.on_reference(label)
        voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000 / math.prod(scan.repeats)
        found: dict[str, Any] = {"evidence": CaseEvidence(evidence, facts), "dice": {}, "ml": {}}
        for value in evidence:
            mine, true = whole == value, scan.reference == value
            both = int(mine.sum() + true.sum())
            found["dice"][value] = 2 * int((mine & true).sum()) / both if both else math.nan
            found["ml"][value] = float(true.sum()) * voxel_ml
        if watcher is not None and watcher.values is not None:
            at = tuple(np.argwhere(weight > 0).T)
            seen = np.isfinite(watcher.values).all(1)
            found["sampled"] = Sampled(watcher.values[seen], truth[at][seen], weight[at][seen])
        return found

    def seconds(self, scan: Any) -> tuple[float, float]:
        """Of one prediction without and with what `predict` takes for its verdict; prepared already."""
        volume = Volume(np.ascontiguousarray(scan.image), scan.affine, Header.of_array(scan.image.shape, scan.affine))
        prepared: Any = self.plain.prepare(volume)
        began = time.perf_counter()
        self.plain.segment(prepared)
        middle = time.perf_counter()
        facts = image_facts(prepared.image)
        label = self.watching.segment(prepared)
        CaseEvidence(label_evidence(label, scan.affine, self.values, self.watching.confidence), facts)  # type: ignore[attr-defined]
        return middle - began, time.perf_counter() - middle


def measure(folder: str, data: str, count: int | None) -> dict[str, Any]:
    bench = Bench(folder)
    dataset = open_dataset(data)
    cases = _cases(bench.bundle, dataset, ())[0][:count]
    scans = {case.name: _scan(case, dataset) for case in cases}
    looked = {name: bench.look(scan, sample=True) for name, scan in scans.items()}
    names = list(looked)
    known, other = names[::2], names[1::2]
    labels = {
        value: LabelTrust.learned(
            str(value),
            [looked[n]["evidence"].labels[value] for n in known],
            [looked[n]["dice"][value] for n in known],
            [looked[n]["ml"][value] for n in known],
        )
        for value in looked[names[0]]["dice"]
    }
    trust = CaseTrust((), 1.0, labels, image_ranges([looked[n]["evidence"].image for n in known]))
    temperature = best_temperature([looked[n]["sampled"] for n in known])
    error = {
        word: calibration_error(reliability([(looked[n]["sampled"], t) for n in other]))
        for word, t in (("before", 1.0), ("after", temperature))
    }
    shifted = []
    for kind, shift in shifts_for(bench.bundle.channels).items():
        for name in other:
            found = bench.look(shift.apply(scans[name], shift.strengths[-1], _random(0, name, kind)))
            shifted.append({"shift": kind, "case": name, **verdict(trust, found)})
    plain = [{"case": name, **verdict(trust, looked[name])} for name in other]
    seconds = np.array([bench.seconds(scans[name]) for name in names])
    return {
        "bundle": Path(folder).name,
        "learned": len(known),
        "tried": len(other),
        "temperature": temperature,
        "calibration_error": error,
        "covered": covered(trust, [looked[n] for n in other]),
        "flagged_good": share([row["flag"] for row in plain if row["dice"] >= 0.6]),
        "flagged_bad_shifted": share([row["flag"] for row in shifted if row["dice"] < 0.6]),
        "bad_shifted": sum(row["dice"] < 0.6 for row in shifted),
        "area": areas(plain),
        "area_with_shifts": areas([*plain, *shifted]),
        "seconds": {"without": float(np.median(seconds[:, 0])), "with": float(np.median(seconds[:, 1]))},
        "rows": [*plain, *shifted],
    }


def verdict(trust: CaseTrust, found: dict[str, Any]) -> dict[str, Any]:
    """A case's smallest Dice over labels, what was expected, and whether it was flagged."""
    rows = trust.verdicts(found["evidence"])
    expected = [row.get("expected_dice", 0.0) for row in rows.values()]
    return {
        "dice": float(np.nanmean(list(found["dice"].values()))),
        "expected": float(np.mean(expected)),
        "overlap": float(np.mean([one.overlap for one in found["evidence"].labels.values()])),
        "flag": any(row["flag"] == "review" for row in rows.values()),
        "reason": next((row["reason"] for row in rows.values() if row["reason"]), ""),
    }


def covered(trust: CaseTrust, cases: list[dict[str, Any]]) -> dict[str, float]:
    dice, volume = [], []
    for found in cases:
        for value, row in trust.verdicts(found["evidence"]).items():
            if "dice_low" in row:
                dice.append(row["dice_low"] <= found["dice"][value] <= row["dice_high"])
            if "volume_ml_low" in row:
                volume.append(row["volume_ml_low"] <= found["ml"][value] <= row["volume_ml_high"])
    return {"dice": share(dice), "volume": share(volume)}


def areas(rows: list[dict[str, Any]]) -> dict[str, float]:
    risk = [1 - row["dice"] for row in rows]
    return {word: normalised_area([row[word] for row in rows], risk) for word in ("expected", "overlap")}


def share(values: list[bool]) -> float:
    return float(np.mean(values)) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    found = measure(given.bundle, given.data, given.cases)
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
