"""Cross-validated label maps, what they say about networks, and which post-processing they justify.

Every case is segmented by the network that never saw it. Label maps are written as they come and kept, so an
interrupted run continues where it stopped. Nothing here knows of bundles: `medseg.commands.cv` calls it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.datasets import read_case_image
from medseg.errors import DataError, MedsegError
from medseg.evaluation import Evaluation, ScoreSettings
from medseg.evaluation.folders import NOT_ANNOTATED, Pair, evaluate_pairs
from medseg.evaluation.statistics import PairedDifference, holm, paired_difference
from medseg.inference import Predictor
from medseg.io.datalist import Case
from medseg.io.volume import read_label
from medseg.transforms.postprocessing import Postprocessing, component_volumes

from .kept_maps import KeptMaps
from .watched import Watched, facts_path, predict_watched

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network, or several averaged, with one trained set of weights per fold.

    Args:
        name: shown in tables; names the folder of its label maps.
        folds: fold -> the validation cases of that fold; only folds with weights.
        predictor: fold -> what segments that fold's cases.
        identity: fold -> a text that changes with the weights or the settings; label maps of another identity are made anew.
        labels: label value -> name, background included.
    """

    name: str
    folds: Mapping[int, Sequence[Case]]
    predictor: Callable[[int], Predictor]
    identity: Mapping[int, str]
    labels: Mapping[int, str]


@dataclass(frozen=True)
class Comparison:
    """Candidate `first` against `second` on the cases that both segmented.

    Args:
        first, second: names.
        label: label name, or the mean over labels.
        difference: of the metric, first - second, per case.
        adjusted_p: the signed-rank p value adjusted for the number of comparisons (Holm).
    """

    first: str
    second: str
    label: str
    difference: PairedDifference
    adjusted_p: float


@dataclass(frozen=True)
class Trial:
    """One post-processing step tried on one label: with the step minus without it, Dice per case.

    `kept` where the interval lies above 0 and no other step of this round gained the label more.
    """

    step: dict[str, Any]
    label: str
    difference: PairedDifference
    kept: bool = False


@dataclass
class Selection:
    """Post-processing chosen on cross-validation, and all that was tried.

    Args:
        steps: for `Postprocessing`, in order.
        trials: in order.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


def predict_out_of_fold(candidate: Candidate, folder: Path, *, progress: Progress | None = None) -> list[Pair]:
    """Segment each fold's validation cases by the network that did not train on them.

    Args:
        candidate: what segments.
        folder: `fold_N/CASE.nii.gz` and `CASE.facts.npz` (`watched.py`) go here; maps that are there already,
            of the same weights, settings and images, are kept.
        progress: called with (done, total, case name).

    Returns:
        (case name, label map, reference) of every case, ready for `evaluate_pairs`.

    Raises:
        DataError: a case has no reference, or stands in the validation part of two folds.
    """
    _check_folds(candidate)
    pairs: list[Pair] = []
    total = sum(len(cases) for cases in candidate.folds.values())
    for fold, cases in candidate.folds.items():
        target = folder / f"fold_{fold}"
        maps = KeptMaps(target, candidate.identity[fold])
        predictor: Predictor | None = None
        for case in cases:
            facts = facts_path(maps.path(case))
            if not maps.holds(case) or Watched.read(facts) is None:
                predictor = predictor or candidate.predictor(fold)
                fill = getattr(predictor.preprocessing, "normalization", ())
                segment = functools.partial(predict_watched, predictor, case, facts)
                maps.make(case, functools.partial(read_case_image, normalization=fill), segment)
            assert case.label is not None
            pairs.append((case.name, maps.path(case), case.label))
            if progress:
                progress(len(pairs), total, case.name)
    return sorted(pairs)


def compare(evaluations: Mapping[str, Evaluation], *, metric: str = "dice") -> list[Comparison]:
    """All pairs of candidates, per label and for the mean over labels, on the cases that both have.

    Raises:
        DataError: two candidates have no case in common.
    """
    found: list[tuple[str, str, str, PairedDifference]] = []
    for first, second in itertools.combinations(evaluations, 2):
        left, right = evaluations[first], evaluations[second]
        labels: list[str | None] = [None, *(name for name in left.regions if name in right.regions)]
        for label in labels:
            a, b = _values_by_case(left, metric, label), _values_by_case(right, metric, label)
            common = sorted(a.keys() & b.keys())
            if not common:
                raise DataError(f"{first} and {second} have no validation case in common: nothing to compare")
            difference = paired_difference([a[name] for name in common], [b[name] for name in common])
            found.append((first, second, label or "mean over labels", difference))
    adjusted = holm([entry[3].p_value for entry in found])
    return [Comparison(*entry, adjusted_p=p) for entry, p in zip(found, adjusted, strict=True)]


def choose_candidate(evaluations: Mapping[str, Evaluation], ensembles: Sequence[str] = (), metric: str = "dice") -> str:
    """The best single candidate, or an ensemble that is clearly better.

    An ensemble costs its number of networks at every prediction, so it has to win by more than chance: the 95 % interval
    of its paired difference to the best single one lies above 0.

    Args:
        evaluations: candidate name -> scores.
        ensembles: which of the names are ensembles.
        metric: mean over labels of each case, larger is better.
    """
    singles = [name for name in evaluations if name not in ensembles] or list(evaluations)
    best = _best(evaluations, singles, metric)
    for name in sorted(ensembles, key=lambda n: -_common_mean(evaluations, n, list(evaluations), metric)):
        a, b = _values_by_case(evaluations[name], metric, None), _values_by_case(evaluations[best], metric, None)
        common = sorted(a.keys() & b.keys())
        if paired_difference([a[n] for n in common], [b[n] for n in common]).low > 0:
            return name
    return best


def choose_postprocessing(
    pairs: Sequence[Pair],
    labels: Mapping[int, str],
    *,
    declared: Mapping[str, Collection[int]] | None = None,
    ignore_label: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Selection:
    """Per label the steps that improve cross-validated Dice; often none.

    A step is kept when the 95 % interval of its paired difference over cases lies above 0. In each round every label
    takes its best such step, on top of what it has, until none helps. A case in which the label is rightly absent counts
    as 1 here (and only here: scores call it undefined), so that removing a false positive is seen as the gain it is.

    Args:
        pairs: cross-validated label maps with their references.
        labels: value -> name, background included.
        declared: case name -> labels annotated in it, for partial annotation; other labels do not count there.
        ignore_label: value of voxels in the references that were not annotated, and do not count.
        workers: cases read at the same time.
        progress: called with (round, rounds at most, what is tried).
    """
    settings = ScoreSettings(groups=("overlap",), ignore_label=ignore_label)
    foreground = {value: name for value, name in labels.items() if value != 0}
    smallest = _smallest_components(pairs, foreground)
    kinds = ("largest_component", "minimum_size", "fill_holes")
    selection = Selection()

    def score(steps: Sequence[Mapping[str, Any]]) -> Evaluation:
        change = Postprocessing(steps) if steps else None
        return evaluate_pairs(
            pairs, labels=labels, settings=settings, workers=workers, change=change, declared=declared
        )

    base = score([])
    open_kinds = {value: list(kinds) for value in foreground}
    for number in range(len(kinds)):
        best: dict[int, Trial] = {}
        round_: list[Trial] = []
        for kind in kinds:
            offered = {value: _step(kind, value, smallest) for value in foreground if kind in open_kinds[value]}
            steps = {value: step for value, step in offered.items() if step is not None}
            if not steps:
                continue
            if progress:
                progress(number, len(kinds), kind.replace("_", " "))
            tried = score([*selection.steps, *steps.values()])
            for value, step in steps.items():
                trial = _trial(step, foreground[value], tried, base)
                round_.append(trial)
                if trial.difference.low > 0 and (
                    value not in best or trial.difference.mean > best[value].difference.mean
                ):
                    best[value] = trial
        kept = [id(trial) for trial in best.values()]
        selection.trials += [dataclasses.replace(trial, kept=id(trial) in kept) for trial in round_]
        if not best:
            break
        for value, trial in best.items():
            selection.steps.append(trial.step)
            open_kinds[value].remove(trial.step["kind"])
        open_kinds = {value: kinds_left if value in best else [] for value, kinds_left in open_kinds.items()}
        base = score(selection.steps)
    return selection


def _check_folds(candidate: Candidate) -> None:
    seen: dict[str, int] = {}
    for fold, cases in candidate.folds.items():
        for case in cases:
            if case.label is None:
                raise DataError(f"{candidate.name}, fold {fold}: case {case.name!r} has no reference label map")
            if (other := seen.setdefault(case.name, fold)) != fold:
                raise DataError(
                    f"{candidate.name}: case {case.name!r} is a validation case of folds {other} and {fold}"
                )


def _values_by_case(evaluation: Evaluation, metric: str, label: str | None) -> dict[str, float]:
    return {case.name: v for case, v in zip(evaluation.cases, evaluation.values(metric, label), strict=True)}


def _common_mean(evaluations: Mapping[str, Evaluation], name: str, others: Sequence[str], metric: str) -> float:
    common = set.intersection(*({case.name for case in evaluations[other].cases} for other in others))
    values = [v for case, v in _values_by_case(evaluations[name], metric, None).items() if case in common]
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else -math.inf


def _best(evaluations: Mapping[str, Evaluation], names: Sequence[str], metric: str) -> str:
    return max(names, key=lambda name: _common_mean(evaluations, name, names, metric))


def _trial(step: dict[str, Any], label: str, tried: Evaluation, base: Evaluation) -> Trial:
    before, after = _values_by_case(base, "dice", label), _values_by_case(tried, "dice", label)
    unknown = {case.name for case in base.cases if case.labels[label].reasons.get("dice") == NOT_ANNOTATED}
    names = sorted((before.keys() & after.keys()) - unknown)
    difference = paired_difference(
        [1.0 if math.isnan(after[n]) else after[n] for n in names],
        [1.0 if math.isnan(before[n]) else before[n] for n in names],
    )
    return Trial(step, label, difference)


def _step(kind: str, value: int, smallest: Mapping[int, float]) -> dict[str, Any] | None:
    if kind != "minimum_size":
        return {"kind": kind, "labels": [value]}
    if value not in smallest:
        return None
    # half of the smallest true component: what is smaller was never annotated
    return {"kind": kind, "labels": [value], "millilitres": float(f"{smallest[value] / 2:.3g}")}


def _smallest_components(pairs: Sequence[Pair], labels: Mapping[int, str]) -> dict[int, float]:
    """Volume in ml of the smallest component of each label over all references."""
    smallest: dict[int, float] = {}
    for _, _, reference in pairs:
        try:
            volume = read_label(reference)
        except MedsegError as error:
            log.warning("%s", error)
            continue
        for value in labels:
            sizes = component_volumes(volume.array, value, volume.affine)
            if len(sizes):
                smallest[value] = min(smallest.get(value, math.inf), float(sizes.min()))
    return smallest
