"""What `compare` says is right as often as it says: no winner among equals, a planted gain found with the power that is told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from medseg.assurance import Comparison, Rules, compare, power
from medseg.assurance.comparison import chance_of_other_sign, sign_flip_p
from medseg.assurance.comparison_section import comparison_section, rows
from medseg.errors import ConfigError, DataError
from medseg.evaluation import Evaluation, ScoreSettings
from medseg.evaluation.result import MEAN, CaseScores
from medseg.evaluation.scores import LabelScores

SETTINGS = ScoreSettings(groups=("overlap",))


def scored(dice: np.ndarray, first: int = 0, labels: tuple[str, ...] = ("organ",)) -> Evaluation:
    """An evaluation with these Dice scores, the same for each label."""
    cases = [
        CaseScores(
            f"case_{first + i:04}", {label: LabelScores({"dice": float(v), "iou": float(v)}, {}) for label in labels}
        )
        for i, v in enumerate(dice)
    ]
    return Evaluation(cases, {label: (i + 1,) for i, label in enumerate(labels)}, SETTINGS)


def difficult(pairs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(12, 2, pairs)


def test_the_sign_flip_test_is_scipys_permutation_test() -> None:
    few = np.random.default_rng(1).normal(0.02, 0.03, 9)
    exact = stats.permutation_test((few,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(few) == pytest.approx(exact.pvalue)
    many = np.random.default_rng(2).normal(0.008, 0.03, 60)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.01)
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert math.isnan(sign_flip_p(np.ones(1)))


def test_equals_are_called_better_in_at_most_16_of_200_resamples() -> None:
    """One network twice: pairs that differ by noise whose sign is a coin's."""
    generator = np.random.default_rng(3)
    noise = np.abs(generator.standard_t(4, 42)) * 0.01
    called = 0
    for _ in range(200):
        base = difficult(42)
        signs = generator.choice([-1.0, 1.0], 42)
        pair = compare({"a": scored(base), "b": scored(base + signs * noise)}).primary[0]
        called += bool(pair.verdict)
    assert called <= 16


def test_a_planted_gain_is_found_with_the_power_that_is_told() -> None:
    generator = np.random.default_rng(4)
    found, told = 0, power(0.01, 0.05, 208)
    for _ in range(60):
        base = difficult(208)
        found += (
            compare({"a": scored(base + 0.01 + generator.normal(0, 0.05, 208)), "b": scored(base)}).primary[0].verdict
            == "a"
        )
    assert found / 60 == pytest.approx(told, abs=3 * math.sqrt(told * (1 - told) / 60))


def test_the_chance_of_being_wrong_is_the_tail_of_the_paired_t_test() -> None:
    differences = np.random.default_rng(5).normal(0.02, 0.04, 42)
    assert differences.mean() > 0
    assert chance_of_other_sign(differences) == pytest.approx(
        stats.ttest_1samp(differences, 0, alternative="greater").pvalue
    )
    assert chance_of_other_sign(-differences) == pytest.approx(chance_of_other_sign(differences))
    assert chance_of_other_sign(np.zeros(4)) == 0.5


def three() -> Comparison:
    base = difficult(60)
    return compare(
        {
            "a": scored(base, labels=("x", "y")),
            "b": scored(base - 0.05, labels=("x", "y")),
            "c": scored(base, labels=("x", "y")),
        }
    )


def test_every_pair_is_compared_once_and_corrected_for_their_number() -> None:
    found = three()
    assert [(p.first, p.second, p.verdict) for p in found.primary] == [("a", "b", "a"), ("a", "c", ""), ("b", "c", "c")]
    assert {p.label for p in found.primary} == {MEAN}
    assert len(found.secondary) == 6
    assert found.primary[0].adjusted_p == pytest.approx(3 * found.primary[0].p)
    assert found.primary[0].detectable == pytest.approx(0, abs=1e-12)  # the pairs do not scatter


def test_a_smaller_distance_is_the_better_one() -> None:
    base = np.random.default_rng(6).uniform(2, 6, 30)
    systems = {}
    for name, distance in (("near", base), ("far", base + np.random.default_rng(7).uniform(0.5, 2, 30))):
        cases = [
            CaseScores(f"c{i:02}", {"organ": LabelScores({"hd95_mm": float(v)}, {})}) for i, v in enumerate(distance)
        ]
        systems[name] = Evaluation(cases, {"organ": (1,)}, ScoreSettings(groups=("surface",)))
    assert compare(systems, metrics=("hd95_mm",)).primary[0].verdict == "near"


def test_too_few_cases_get_no_interval_and_few_get_a_warning() -> None:
    base = difficult(9)
    few = compare({"a": scored(base + 0.05), "b": scored(base)})
    assert math.isnan(few.primary[0].low)
    assert math.isnan(few.primary[0].p)
    assert not few.primary[0].verdict
    assert "no interval and no test" in few.cautions[0]
    assert rows(few.primary)[0][-1] == "not told"
    assert "42 cases" in compare({"a": scored(difficult(42)), "b": scored(difficult(42, 1))}).cautions[0]
    assert compare({"a": scored(difficult(60)), "b": scored(difficult(60, 1))}).cautions == ()


def test_undefined_scores_leave_their_pair_out_and_are_counted() -> None:
    base = difficult(30)
    holes = base - 0.02
    holes[:4] = math.nan
    found = compare({"a": scored(base), "b": scored(holes)}, rules=Rules(many=20))
    assert (found.primary[0].cases, found.primary[0].dropped) == (26, 4)
    assert found.primary[0].means[0] == pytest.approx(base[4:].mean())
    assert "4 of 30 cases" in found.cautions[0]


def test_other_cases_labels_or_failures_are_refused_by_name() -> None:
    base = difficult(12)
    with pytest.raises(DataError, match="'case_0000' is only in a"):
        compare({"a": scored(base), "b": scored(base, first=1)})
    with pytest.raises(DataError, match="b has"):
        compare({"a": scored(base), "b": scored(base, labels=("other",))})
    broken = scored(base)
    broken.failed["case_9"] = "lies on another grid"
    with pytest.raises(DataError, match="b: case 'case_9' could not be scored"):
        compare({"a": scored(base), "b": broken})
    with pytest.raises(ConfigError, match="found 1 system"):
        compare({"a": scored(base)})
    with pytest.raises(ConfigError, match="hd95_mm"):
        compare({"a": scored(base), "b": scored(base)}, metrics=("hd95_mm",))


def test_the_order_of_the_cases_does_not_matter() -> None:
    base = difficult(20)
    mixed = scored(base - 0.01)
    mixed.cases.reverse()
    assert compare({"a": scored(base), "b": mixed}).primary[0].difference == pytest.approx(0.01)


def test_the_json_holds_no_nan_and_the_section_every_pair() -> None:
    found = three()
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["primary"][0]["verdict"] == "a"
    json.dumps(compare({"a": scored(difficult(3)), "b": scored(difficult(3))}).as_dict(), allow_nan=False)
    html = comparison_section(found).html()
    for words in ("a - b", "a - c", "b - c", "6 further comparisons", "<svg", "wrong if called"):
        assert words in html
