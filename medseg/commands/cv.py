"""`medseg cv`: compare bundles on their validation cases, choose a network or ensemble and its post-processing."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.bars import notebook_bar
from medseg.bundle.load import Bundle, Trust, let_code_be_found, load_bundle
from medseg.bundle.predictor import grid_difference, make_fold_predictor
from medseg.bundle.weights import sha256_of
from medseg.config import read_json
from medseg.datasets import open_dataset
from medseg.devices import choose_device
from medseg.errors import BundleError, ConfigError
from medseg.evaluation import Evaluation, ScoreSettings
from medseg.evaluation.folders import Pair, evaluate_pairs
from medseg.evaluation.practice import PracticeCard
from medseg.io.datalist import Case
from medseg.planning.folds import check_splits, read_splits
from medseg.selection.cross_validation import (
    Candidate,
    Comparison,
    Selection,
    choose_candidate,
    choose_postprocessing,
    compare,
    predict_out_of_fold,
)
from medseg.transforms.postprocessing import Postprocessing, describe

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int, str], None]  # what is done, done, total, case


@dataclass
class CrossValidation:
    """What `cross_validate` found.

    Args:
        evaluations: candidate name -> scores on all its validation cases, without post-processing.
        members: candidate name -> the bundles it averages.
        folds: candidate name -> its trained folds.
        pairs: candidate name -> the label maps scored.
        comparisons: of the candidates, pair by pair.
        chosen: name of the one that was chosen.
        selection: its post-processing, and what was tried.
        final: scores of the chosen one with its post-processing.
        left_out: ensembles that were not tried -> why.
    """

    evaluations: dict[str, Evaluation]
    members: dict[str, tuple[Bundle, ...]]
    folds: dict[str, tuple[int, ...]]
    pairs: dict[str, list[Pair]]
    comparisons: list[Comparison]
    chosen: str
    selection: Selection
    final: Evaluation
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bundle(self) -> Bundle:
        """The bundle that the choice is written into: the chosen one, or the best member of the chosen ensemble."""
        return self.members[self.chosen][0]

    def _repr_html_(self) -> str:
        """What a notebook shows: the choice and its scores."""
        from medseg.evaluation.report.page import Section

        steps = ", after post-processing" if self.selection.steps else ""
        return Section("").text(f"chosen: {self.chosen}{steps}").html() + self.final._repr_html_()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        dice = {name: evaluation.summary() for name, evaluation in self.evaluations.items()}
        return {
            "candidates": {
                name: {
                    "bundles": [bundle.name for bundle in self.members[name]],
                    "folds": list(self.folds[name]),
                    "cases": len(self.evaluations[name].cases),
                    "dice": {label: row["dice"].as_dict() for label, row in dice[name].items()},
                }
                for name in self.evaluations
            },
            "comparisons": [dataclasses.asdict(entry) for entry in self.comparisons],
            "not_tried": self.left_out,
            "chosen": self.chosen,
            "postprocessing": self.selection.steps,
            "postprocessing_tried": [dataclasses.asdict(trial) for trial in self.selection.trials],
            "practice": practice_card(self).as_dict(),
            "evaluation": self.final.as_dict(),
        }


def cross_validate(
    names: Sequence[str | Path],
    *,
    device: str = "auto",
    trust: Trust = False,
    settings: ScoreSettings | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> CrossValidation:
    """Segment every validation case with the fold that did not train on it, compare, and choose.

    Label maps are kept in each bundle's `runs/cross_validation/`; a second call continues an interrupted one. Bundles on
    one grid (same preprocessing, labels, folds and cases) are also tried as ensembles, with the settings of the member
    with the largest window, which is where the choice is written; the others are named in `left_out`.

    Args:
        names: folders or names of bundles; one is enough to choose post-processing.
        device: where the networks run.
        trust: let the bundles run code that is not on the allow-list.
        settings: what to score.
        workers: cases scored at the same time.
        progress: called with (what, done, total, case name).

    Raises:
        BundleError: a bundle without plan.json or without a trained fold, or two bundles of one name.
        DataError: the folds leak or name unknown cases, or two bundles share no validation case.
    """
    bundles = [load_bundle(name, trust=trust) for name in names]
    if len({bundle.name for bundle in bundles}) < len(bundles):
        raise BundleError("two of the bundles have one name: " + ", ".join(sorted(bundle.name for bundle in bundles)))
    ensembles, left_out = _ensembles(bundles)
    for name, reason in left_out.items():
        log.warning("%s is not tried as an ensemble: %s", name, reason)
    groups = [(bundle,) for bundle in bundles] + ensembles
    with notebook_bar("case") as shown:
        if progress is None and shown is not None:
            progress = lambda what, done, total, _: shown(what, done, total)  # noqa: E731
        found = _compared(groups, choose_device(device), settings, workers, progress)
    return dataclasses.replace(found, left_out=left_out)


def _compared(
    groups: Sequence[tuple[Bundle, ...]],
    device: torch.device,
    settings: ScoreSettings | None,
    workers: int,
    progress: Progress | None,
) -> CrossValidation:
    """Segment, score and compare the candidates, and choose one and its post-processing."""
    evaluations, pairs, folds, members = {}, {}, {}, {}
    for group in groups:
        candidate = _candidate(group, device)
        name = candidate.name
        home = group[0].layout.cross_validation / name
        pairs[name] = predict_out_of_fold(
            candidate, home, progress=functools.partial(progress, name) if progress else None
        )
        evaluations[name] = _score(candidate, group, pairs[name], settings, workers)
        folds[name], members[name] = tuple(candidate.folds), group
        _refuse_failed(name, evaluations[name])
    chosen = choose_candidate(evaluations, [name for name, group in members.items() if len(group) > 1])
    candidate = _candidate(members[chosen], device)
    selection = choose_postprocessing(
        pairs[chosen],
        candidate.labels,
        declared=_declared(candidate),
        ignore_label=_ignored(members[chosen][0]),
        workers=workers,
        progress=functools.partial(progress, "post-processing") if progress else None,
    )
    final = evaluations[chosen]
    if selection.steps:
        change = Postprocessing(selection.steps)
        final = _score(candidate, members[chosen], pairs[chosen], settings, workers, change=change)
    return CrossValidation(evaluations, members, folds, pairs, compare(evaluations), chosen, selection, final)


def _score(
    candidate: Candidate,
    group: Sequence[Bundle],
    pairs: Sequence[Pair],
    settings: ScoreSettings | None,
    workers: int,
    *,
    change: Postprocessing | None = None,
) -> Evaluation:
    """Scores of a candidate's label maps; voxels and labels that nobody annotated are left out."""
    wanted = settings or ScoreSettings()
    if wanted.ignore_label is None:
        wanted = dataclasses.replace(wanted, ignore_label=_ignored(group[0]))
    return evaluate_pairs(
        pairs, labels=candidate.labels, regions=_unions(group[0]), settings=wanted, workers=workers, change=change,
        declared=_declared(candidate),
    )  # fmt: skip


def _ignored(bundle: Bundle) -> int | None:
    """The value of voxels that were not annotated, as the plan has it."""
    return bundle.plan.ignore_label if bundle.plan is not None else None


def _unions(bundle: Bundle) -> dict[str, list[int]]:
    """The regions of several labels that the bundle's network was trained for: scored beside the labels."""
    regions = bundle.plan.regions if bundle.plan is not None else []
    return {str(region["name"]): list(region["labels"]) for region in regions if len(region["labels"]) > 1}


def practice_card(result: CrossValidation) -> PracticeCard:
    """What was and was not done for the chosen candidate."""
    bundle, folds = result.bundle, result.folds[result.chosen]
    names = [member.name for member in result.members[result.chosen]]
    several = f"folds {', '.join(map(str, folds))}" if len(folds) > 1 else ""
    ensemble = " of ".join(filter(None, [several, " and ".join(names) if len(names) > 1 else ""]))
    planned = read_splits(bundle.folder)
    steps: dict[str, list[str]] = {}
    for step in result.selection.steps:
        for value in step["labels"]:
            steps.setdefault(bundle.labels[value], []).append(describe(step))
    notes = []
    if several:
        notes.append(
            "The scores are of single networks, each on cases it never saw; the average of the folds cannot be scored on "
            "these cases, since all but one of its networks trained on them."
        )
    if len(folds) < len(planned):
        notes.append(f"Folds without weights: {', '.join(str(f) for f in range(len(planned)) if f not in folds)}.")
    return PracticeCard(
        cases=len(result.final.cases),
        folds_planned=len(planned),
        folds_trained=len(folds),
        ensemble=ensemble,
        postprocessing=steps,
        mirroring=bundle.label_settings.mirror_axes,
        leakage_checks=("no subject in training and validation of one fold", "no case in validation of two folds"),
        seeds=_seeds(bundle, folds),
        checkpoint="after the last epoch, not chosen on validation",
        test_set="",
        notes=tuple(notes),
    )


def _ensembles(bundles: Sequence[Bundle]) -> tuple[list[tuple[Bundle, ...]], dict[str, str]]:
    """Pairs, and all together, of bundles whose networks can be averaged window by window; and why others cannot.

    The bundle with the largest window comes first: its settings are those of the ensemble.
    """
    found, left_out = [], {}
    for count in sorted({2, len(bundles)} - {0, 1}):
        for group in itertools.combinations(bundles, count):
            ordered = tuple(sorted(group, key=lambda bundle: -math.prod(bundle.roi_size)))
            reasons = [_apart(ordered[0], other) for other in ordered[1:]]
            if any(reasons):
                left_out["+".join(bundle.name for bundle in ordered)] = next(filter(None, reasons))
            else:
                found.append(ordered)
    return found, left_out


def _apart(first: Bundle, second: Bundle) -> str:
    """Why two bundles are not tried as an ensemble: another grid, other folds or other data."""
    difference = grid_difference(first, second)
    if difference:
        return difference
    if read_splits(first.folder) != read_splits(second.folder):
        return f"the folds of {first.name} are not those of {second.name}"
    places = [bundle.plan.data_folder if bundle.plan else "" for bundle in (first, second)]
    return "" if places[0] == places[1] else f"{first.name} was planned on {places[0]}, {second.name} on {places[1]}"


def _candidate(group: tuple[Bundle, ...], device: torch.device) -> Candidate:
    first = group[0]
    folds = [fold for fold in trained_folds(first) if all(fold in trained_folds(bundle) for bundle in group)]
    if not folds:
        missing = " and ".join(bundle.name for bundle in group)
        raise BundleError(f"{missing}: no fold is trained; run `medseg fit {first.folder} --fold all` first")
    identity = {fold: "\n".join(_identity(group[0], bundle, fold) for bundle in group) for fold in folds}
    cases = validation_cases(first, folds)
    name = "+".join(bundle.name for bundle in group)
    return Candidate(name, cases, lambda fold: make_fold_predictor(group, fold, device), identity, first.labels)


def _declared(candidate: Candidate) -> dict[str, tuple[int, ...]]:
    """Cases with partial annotation: which labels they declare."""
    cases = [case for entries in candidate.folds.values() for case in entries]
    return {case.name: case.labels_present for case in cases if case.labels_present is not None}


def trained_folds(bundle: Bundle) -> list[int]:
    """Folds with weights."""
    return [fold for fold in range(len(read_splits(bundle.folder))) if bundle.layout.fold_weights(fold).is_file()]


def validation_cases(bundle: Bundle, folds: Sequence[int]) -> dict[int, list[Case]]:
    """fold -> its validation cases, after the same checks as training makes.

    Raises:
        BundleError: the bundle has no plan.json, so nobody knows its data.
        ConfigError: the data's folder is gone.
    """
    if bundle.plan is None:
        raise BundleError(f"{bundle.folder}: has no plan.json, so its cases are not known")
    if not Path(bundle.plan.data_folder).is_dir():
        raise ConfigError(
            f"{bundle.layout.plan}: data_folder {bundle.plan.data_folder} does not exist; correct it to where the data lies"
        )
    if bundle.plan.project:
        let_code_be_found(bundle)
    kinds = {"missing_channels": bundle.plan.missing_channels, "project": bundle.plan.project}
    splits, dataset = read_splits(bundle.folder), open_dataset(bundle.plan.data_folder, **kinds)  # type: ignore[arg-type]
    check_splits(splits, dataset.cases)
    by_name = {case.name: case for case in dataset.cases}
    return {fold: [by_name[name] for name in splits[fold]["val"]] for fold in folds}


def _identity(home: Bundle, bundle: Bundle, fold: int) -> str:
    """What decides the label maps of one fold: a member's weights and recipe, and the settings of the bundle that it ships in."""
    facts = [
        sha256_of(bundle.layout.fold_weights(fold)),
        dataclasses.asdict(dataclasses.replace(home.label_settings, postprocessing=())),
        bundle.own_network_def,
        bundle.preprocessing.to_dict(),
    ]
    return json.dumps(facts, sort_keys=True, default=str)


def _refuse_failed(name: str, evaluation: Evaluation) -> None:
    if evaluation.failed:
        case, reason = next(iter(evaluation.failed.items()))
        raise BundleError(f"{name}: {len(evaluation.failed)} cases cannot be scored, such as {case!r}: {reason}")


def _seeds(bundle: Bundle, folds: Sequence[int]) -> tuple[int, ...] | None:
    seeds = set()
    for fold in folds:
        try:
            content: Mapping[str, Any] = read_json(bundle.layout.run(fold).manifest)
            seeds.add(int(content["seed"]))
        except (OSError, ValueError, KeyError):
            return None
    return tuple(sorted(seeds))
