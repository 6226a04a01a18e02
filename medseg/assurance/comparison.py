"""Is A better than B? The same cases scored twice or more, and what may be said of it.

Per pair of systems: the mean difference with its bootstrap interval, a permutation test that flips the signs of pairs, Holm's
correction over all pairs, the chance that calling the leader better is wrong, and the difference that these cases could have
shown. The primary comparison is one metric's mean over labels; labels and other metrics stand beside it, corrected among
themselves.

Source of the chance: for paired scores with a flat prior, the posterior of the mean difference is t with n - 1 degrees around the
mean found, so that the chance of the other sign is t's tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, DataError
from medseg.evaluation import Evaluation
from medseg.evaluation.result import MEAN
from medseg.evaluation.scores import METRICS
from medseg.evaluation.statistics import holm, mean_interval

from .power import detectable_difference

EXACT = 14  # pairs up to which all sign patterns are counted
FLIPS = 9_999
CHUNK = 2_000  # sign patterns at once, for the memory


@dataclass(frozen=True)
class Rules:
    """When something may be said.

    Args:
        level: of the intervals' complement and of the corrected tests.
        enough: cases from which an interval is given.
        many: cases below which the page warns.
        seed: of the resampling.
    """

    level: float = 0.05
    enough: int = 10
    many: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Pairing:
    """Two systems on one score.

    Args:
        first, second: names of the systems.
        label: of the score, or the mean over labels.
        metric: name of the score.
        means: of the cases where both have a score, first and second.
        difference: first minus second, in the metric's unit.
        low, high: ends of its interval; NaN with too few cases.
        p: of the permutation test.
        adjusted_p: after Holm's correction.
        chance_wrong: that the system with the better mean is not the better one; 0.5 says nothing.
        detectable: the difference that these cases show four times in five.
        cases: pairs with both scores; `dropped` have only one or none.
        verdict: name of the better system, or an empty text: no difference shown.
    """

    first: str
    second: str
    label: str
    metric: str
    means: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float
    chance_wrong: float
    detectable: float
    cases: int
    dropped: int
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Args:
        systems: their names.
        primary: pairs of systems on the first metric's mean over labels.
        secondary: labels and other metrics.
        cautions: sentences for the top of a page.
        rules: that were applied.
    """

    systems: tuple[str, ...]
    primary: tuple[Pairing, ...]
    secondary: tuple[Pairing, ...]
    cautions: tuple[str, ...]
    rules: Rules

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what cannot be told is null."""
        return {
            "schema": "medseg.comparison/1",
            "systems": list(self.systems),
            "rules": asdict(self.rules),
            "cautions": list(self.cautions),
            "primary": [_plain(pairing) for pairing in self.primary],
            "secondary": [_plain(pairing) for pairing in self.secondary],
        }


def compare(
    systems: Mapping[str, Evaluation], *, metrics: Sequence[str] = ("dice",), rules: Rules | None = None
) -> Comparison:
    """Compare every pair of systems that were scored on the same cases.

    Args:
        systems: name -> its scores; all of the same cases and labels.
        metrics: scores to compare; the first one's mean over labels is the primary comparison.
        rules: when something may be said.

    Raises:
        ConfigError: fewer than two systems, or a metric that was not computed.
        DataError: other cases or labels in one of them, naming it.
    """
    rules = rules or Rules()
    _check_same(systems, metrics)
    scores = _all_scores(systems, metrics)
    first = next(iter(scores))
    tested = {key: _pairings(key, values, rules) for key, values in scores.items()}
    primary = _judged(tested.pop(first), rules)
    secondary = _judged([pairing for group in tested.values() for pairing in group], rules)
    return Comparison(tuple(systems), primary, secondary, _cautions(systems, primary, rules), rules)


def sign_flip_p(differences: NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p value of the mean under flips of sign: exact for few pairs, else of random patterns with the found one among them.

    Args:
        differences: one per case, without NaN.
        seed: of the random patterns.

    Returns:
        1.0 where nothing differs; NaN with fewer than two pairs.

    Source: Fisher's randomisation test.
    """
    values = differences[differences != 0]
    if len(differences) < 2:
        return math.nan
    if not len(values):
        return 1.0
    found = abs(float(values.sum())) * (1 - 1e-12)
    if len(values) <= EXACT:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float((np.abs((1 - 2 * patterns) @ values) >= found).mean())
    generator = np.random.Generator(np.random.Philox(seed))
    hits, total, width = 1, float(values.sum()), -(-len(values) // 8)
    for begin in range(0, FLIPS, CHUNK):
        rows = min(CHUNK, FLIPS - begin)
        packed = np.frombuffer(generator.bytes(rows * width), np.uint8).reshape(rows, width)
        flipped = np.unpackbits(packed, axis=1, count=len(values)).astype(np.float64) @ values
        hits += int((np.abs(total - 2 * flipped) >= found).sum())
    return hits / (FLIPS + 1)


def chance_of_other_sign(differences: NDArray[np.float64]) -> float:
    """Chance that the true mean has another sign than the mean found; 0.5 where nothing differs, NaN with fewer than two pairs."""
    if len(differences) < 2:
        return math.nan
    spread = float(differences.std(ddof=1))
    if spread == 0:
        return 0.0 if differences.any() else 0.5
    from scipy.special import stdtr

    return float(stdtr(len(differences) - 1, -abs(float(differences.mean())) * math.sqrt(len(differences)) / spread))


def _check_same(systems: Mapping[str, Evaluation], metrics: Sequence[str]) -> None:
    if len(systems) < 2:
        raise ConfigError(f"compare: found {len(systems)} system, expected two or more")
    names = list(systems)
    for name in names:
        known = systems[name].settings.metrics
        if unknown := [metric for metric in metrics if metric not in known]:
            raise ConfigError(
                f"compare: metric {unknown[0]!r} was not computed for {name}; there are {', '.join(known)}"
            )
        if systems[name].failed:
            case, why = next(iter(systems[name].failed.items()))
            raise DataError(
                f"{name}: case {case!r} could not be scored ({why}), so that the systems were not scored on the same cases. "
                "Mend it, or compare the others with --cases NAME ..."
            )
    cases = {name: [case.name for case in evaluation.cases] for name, evaluation in systems.items()}
    for name in names[1:]:
        if only := sorted(set(cases[name]) ^ set(cases[names[0]])):
            there = name if only[0] in cases[name] else names[0]
            raise DataError(
                f"{names[0]} and {name} were scored on different cases: {only[0]!r} is only in {there} ({len(only)} such "
                "cases). Score the same ones: --cases common."
            )
        if set(systems[name].regions) != set(systems[names[0]].regions):
            raise DataError(
                f"{names[0]} has the labels {', '.join(systems[names[0]].regions)}, {name} has "
                f"{', '.join(systems[name].regions)}: name what is to be compared with --labels"
            )


def _all_scores(
    systems: Mapping[str, Evaluation], metrics: Sequence[str]
) -> dict[tuple[str, str], dict[str, NDArray[np.float64]]]:
    """(label, metric) -> system -> one score per case in the order of the names; the primary one first."""
    one = next(iter(systems.values()))
    labels: dict[str, str | None] = {MEAN: None, **{name: name for name in one.regions}}
    if len(one.regions) == 1:
        labels = {name: name for name in one.regions}
    order = {name: np.argsort([case.name for case in found.cases], kind="stable") for name, found in systems.items()}
    return {
        (row, metric): {
            name: np.asarray(found.values(metric, label), dtype=np.float64)[order[name]]
            for name, found in systems.items()
        }
        for metric in metrics
        for row, label in labels.items()
    }


def _pairings(key: tuple[str, str], values: Mapping[str, NDArray[np.float64]], rules: Rules) -> list[Pairing]:
    label, metric = key
    found = []
    for first, second in combinations(values, 2):
        both = ~(np.isnan(values[first]) | np.isnan(values[second]))
        a, b = values[first][both], values[second][both]
        differences = a - b
        few = len(differences) < rules.enough
        interval = mean_interval(differences, level=1 - rules.level, method="bootstrap", seed=rules.seed)
        found.append(
            Pairing(
                first, second, label, metric,
                means=(float(a.mean()), float(b.mean())) if len(a) else (math.nan, math.nan),
                difference=interval.mean,
                low=math.nan if few else interval.low,
                high=math.nan if few else interval.high,
                p=math.nan if few else sign_flip_p(differences, rules.seed),
                adjusted_p=math.nan,
                chance_wrong=math.nan if few else chance_of_other_sign(differences),
                detectable=math.nan,
                cases=len(differences),
                dropped=int((~both).sum()),
            )
        )  # fmt: skip
        if not few:
            level = rules.level / math.comb(len(values), 2)
            least = detectable_difference(float(differences.std(ddof=1)), len(differences), level=level)
            found[-1] = replace(found[-1], detectable=least)
    return found


def _judged(pairings: Sequence[Pairing], rules: Rules) -> tuple[Pairing, ...]:
    adjusted = holm([pairing.p for pairing in pairings])
    judged = []
    for pairing, p in zip(pairings, adjusted, strict=True):
        shown = p <= rules.level and pairing.low * pairing.high > 0
        sign = METRICS[pairing.metric][2]
        leader = pairing.first if sign * pairing.difference > 0 else pairing.second
        judged.append(replace(pairing, adjusted_p=p, verdict=leader if shown and sign else ""))
    return tuple(judged)


def _cautions(systems: Mapping[str, Evaluation], primary: Sequence[Pairing], rules: Rules) -> tuple[str, ...]:
    cases = len(next(iter(systems.values())).cases)
    said = []
    if cases < rules.enough:
        said.append(
            f"{cases} cases: no interval and no test is given, since those of fewer than {rules.enough} cases promise more than "
            "they hold."
        )
    elif cases < rules.many:
        said.append(
            f"{cases} cases: intervals of fewer than {rules.many} are too narrow as a rule; more cases would say more."
        )
    lost = max((pairing.dropped for pairing in primary), default=0)
    if lost:
        said.append(f"{lost} of {cases} cases have no score in one of the systems and are in no pair.")
    return tuple(said)


def _plain(pairing: Pairing) -> dict[str, Any]:
    facts = asdict(pairing)
    facts["means"] = [None if math.isnan(mean) else mean for mean in pairing.means]
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in facts.items()}
