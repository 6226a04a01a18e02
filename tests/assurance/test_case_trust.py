"""Expected Dice, intervals and flags: what they hold on cases that were not learned from, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from medseg.assurance.case_trust import CaseTrust, LabelTrust, image_ranges
from medseg.assurance.conformal import conformal_bound
from medseg.assurance.risk_coverage import normalised_area, risk_coverage
from medseg.errors import BundleError
from medseg.inference.evidence import CaseEvidence, LabelEvidence, image_facts, label_evidence


def cases(count: int, seed: int) -> tuple[list[LabelEvidence], list[float], list[float]]:
    """Evidence, Dice and true volumes of cases whose networks are too sure of themselves by 0.05."""
    random = np.random.default_rng(seed)
    evidence, dice, volumes = [], [], []
    for _ in range(count):
        quality = random.beta(12, 2)
        true = math.exp(random.normal(1, 0.3))
        noise = random.normal(0, 0.03, 2)
        volume = true * math.exp(random.normal(0, 0.4 * (1.02 - quality)))
        overlap = min(quality + 0.05 + noise[0], 1.0)
        evidence.append(LabelEvidence(volume, overlap, 2.0 - quality, math.nan, 1, 0.0))
        dice.append(float(np.clip(quality + noise[1] / 3, 0, 1)))
        volumes.append(true)
    return evidence, dice, volumes


def test_intervals_cover_what_they_promise_on_other_cases() -> None:
    covered = {"dice": [], "volume": []}
    for seed in range(20):
        trust = LabelTrust.learned("liver", *cases(60, seed))
        evidence, dice, volumes = cases(100, 1000 + seed)
        for one, true, volume in zip(evidence, dice, volumes, strict=True):
            row = trust.verdict(one)
            covered["dice"].append(row["dice_low"] - 5e-5 <= true <= row["dice_high"] + 5e-5)
            covered["volume"].append(row["volume_ml_low"] <= volume <= row["volume_ml_high"])
    for found in covered.values():
        assert 0.82 <= np.mean(found) <= 0.98


def test_bad_cases_come_last_and_are_flagged() -> None:
    trust = LabelTrust.learned("liver", *cases(80, 0))
    evidence, dice, _ = cases(200, 1)
    expected = [trust.verdict(one)["expected_dice"] for one in evidence]
    assert normalised_area(expected, [1 - value for value in dice]) < 0.3
    assert np.mean([trust.verdict(one)["flag"] == "review" for one in evidence]) <= 0.1
    unsure = LabelEvidence(2.7, 0.45, 2.0, math.nan, 1, 0.0)
    torn = LabelEvidence(2.7, 0.9, 1.1, math.nan, 40, 0.3)
    assert trust.verdict(unsure)["expected_dice"] < 0.6
    for one, word in ((unsure, "expected Dice"), (torn, "pieces"), (torn, "cut off")):
        row = trust.verdict(one)
        assert row["flag"] == "review"
        assert word in row["reason"]


def test_few_cases_give_no_interval_and_say_why() -> None:
    trust = LabelTrust.learned("liver", *cases(9, 0))
    row = trust.verdict(cases(1, 5)[0][0])
    assert "volume_ml_low" not in row
    assert "dice_low" not in row
    assert 0 < row["expected_dice"] < 1
    assert trust.note == "9 cases with this label; an interval needs 10"
    assert LabelTrust.learned("liver", *cases(1, 0)).regression is None
    assert image_ranges([{"a": 1.0}] * 9) == {}


def test_labels_missing_in_some_cases_and_nan_do_no_harm() -> None:
    evidence, dice, volumes = cases(30, 0)
    evidence[3] = LabelEvidence(0.0, 0.0, 0.1, math.nan, 0, 0.0)
    dice[3], volumes[7], dice[7] = 0.0, 0.0, math.nan
    trust = LabelTrust.learned("liver", evidence, dice, volumes)
    assert trust.cases == 28
    row = trust.verdict(evidence[3])
    assert (row["flag"], row["reason"]) == ("review", "not found")
    assert "expected_dice" not in row


def test_an_image_unlike_those_known_flags_every_label() -> None:
    random = np.random.default_rng(0)
    known = [image_facts(random.normal(size=(1, 20, 20, 20)).astype(np.float32)) for _ in range(12)]
    whole = CaseTrust(("a",), 1.2, {1: LabelTrust.learned("liver", *cases(12, 0))}, image_ranges(known))
    good = cases(12, 0)[0][0]
    assert whole.strange(known[3]) == ""
    blurred = image_facts(np.full((1, 20, 20, 20), 0.1, dtype=np.float32))
    row = whole.verdicts(CaseEvidence({1: good}, blurred))[1]
    assert row["flag"] == "review"
    assert "unlike those known" in row["reason"]


def test_the_record_survives_json_and_what_is_none_is_refused() -> None:
    whole = CaseTrust(("a",), 1.2, {1: LabelTrust.learned("liver", *cases(20, 0))}, {"x": (0.0, 1.0)}, cases=20)
    text = json.dumps(whole.as_dict(), allow_nan=False)
    again = CaseTrust.of_dict(json.loads(text), "place")
    one = cases(1, 9)[0][0]
    assert again.verdicts(CaseEvidence({1: one}, {"x": 2.0})) == whole.verdicts(CaseEvidence({1: one}, {"x": 2.0}))
    for change in ({"temperature": 0}, {"format": 99}, {"labels": {"1": {}}}, {"image": {"x": [1]}}):
        with pytest.raises(BundleError, match="place: is no record"):
            CaseTrust.of_dict(json.loads(text) | change, "place")
    with pytest.raises(BundleError, match="is no record"):
        CaseTrust.of_dict([], "place")


def test_bound_and_area_of_known_numbers() -> None:
    assert conformal_bound(range(9)) is None
    assert conformal_bound([*range(1, 20), math.nan]) == 18
    np.testing.assert_allclose(risk_coverage([1, 3, 2], [0.3, 0.1, 0.2]), [0.1, 0.15, 0.2])
    assert normalised_area([1, 2, 3], [0.1, 0.2, 0.3]) > 1
    assert math.isnan(normalised_area([1, 2], [0.1, 0.1]))


def test_evidence_of_a_label_map() -> None:
    label = np.zeros((10, 10, 10), dtype=np.uint8)
    label[0:4, 2:6, 2:6], label[7, 7, 7] = 2, 2
    sums = {
        "size": np.array([900.0, 0, 65]), "inside": np.array([900.0, 0, 60]), "total": np.array([900.0, 0, 65]),
        "doubt": np.array([1.0, 0, 8]), "agreement": np.array([1.0, np.nan, 0.9]),
    }  # fmt: skip
    found = label_evidence(label, np.diag([2, 2, 2, 1.0]), [0, 1, 2], sums)
    assert found[1].volume_ml == 0
    assert found[2].volume_ml == pytest.approx(65 * 0.008)
    assert found[2].overlap == pytest.approx(120 / 130)
    assert (found[2].pieces, found[2].agreement) == (2, 0.9)
    assert found[2].border == pytest.approx(16 / 65)
