"""Score a folder of label maps against a folder of references, pair by pair by case name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import numpy as np

from medseg.bars import notebook_bar
from medseg.errors import DataError, MedsegError, UnreadableFileError
from medseg.io.atomic import is_temporary
from medseg.io.geometry import grid_difference, spacing_of
from medseg.io.layouts import label_maps, near_match
from medseg.io.synthetic import synthetic_among
from medseg.io.volume import READABLE, case_name, is_volume_file, read_header, read_label
from medseg.record import RECORD, read_record
from medseg.types import Affine, FilePath, LabelXYZ

from .result import CaseScores, Evaluation
from .scores import LabelScores, ScoreSettings, score_case

PROBABILITIES, UNCERTAINTY = "_probabilities", "_uncertainty"  # as cases/batch.py names them
NOT_ANNOTATED = "label not annotated in this case"
Pair = tuple[str, Path, Path]  # case name, prediction, reference


class Naming(TypedDict, total=False):
    """What is scored, and under which name.

    Args:
        labels: value -> name of the labels that may occur; 0 is the background and is not scored. None takes the values found.
        names: value -> name, for those of the values found that have one; only without `labels`.
        regions: name -> values of regions made of several labels, scored beside the labels.
    """

    labels: Mapping[int, str] | None
    names: Mapping[int, str] | None
    regions: Mapping[str, Sequence[int]] | None


def evaluate_folders(
    prediction: FilePath,
    reference: FilePath,
    *,
    cases: Literal["all", "predicted", "common"] | Sequence[str] = "all",
    settings: ScoreSettings | None = None,
    workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
    **naming: Unpack[Naming],
) -> Evaluation:
    """Score every prediction against the reference of the same case name.

    Args:
        prediction: folder of label maps, or one file.
        reference: folder of label maps, of a dataset (its labels are taken), or one file.
        cases: `all` asks for a prediction for each reference, `predicted` leaves references without one out, `common` leaves
            out what one side lacks, and a list of names scores just these.
        settings: what to compute.
        workers: cases scored at the same time.
        progress: called with (done, total, case name) after each case.
        naming: `labels`, `names` and `regions`, see `Naming`.

    Returns:
        The scores; a case that cannot be scored (other grid, unknown values, unreadable) stands in `failed`.

    Raises:
        DataError: no pairs, or a case without its partner, naming it.
    """
    pairs, skipped = pair_cases(prediction, reference, cases=cases)
    with notebook_bar("case") as shown:
        if progress is None and shown is not None:
            progress = lambda done, total, _: shown("scoring", done, total)  # noqa: E731
        evaluation = evaluate_pairs(pairs, settings=settings, workers=workers, progress=progress, **naming)
    return dataclasses.replace(evaluation, skipped=skipped)


def evaluate_pairs(
    pairs: Sequence[Pair],
    *,
    settings: ScoreSettings | None = None,
    workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
    change: Callable[[LabelXYZ, Affine], LabelXYZ] | None = None,
    declared: Mapping[str, Collection[int]] | None = None,
    **naming: Unpack[Naming],
) -> Evaluation:
    """Score files pair by pair.

    Args:
        pairs: (case name, prediction file, reference file).
        settings, workers, progress, naming: as in `evaluate_folders`.
        change: applied to each prediction before it is scored, such as a post-processing.
        declared: case name -> label values that were annotated in it, for cases with partial annotation; the scores of
            other labels are NaN with that reason. Cases that are not named are fully annotated.
    """
    settings = settings or ScoreSettings()
    labels, names = naming.get("labels"), naming.get("names") or {}
    named = {name: (value,) for value, name in (labels or {}).items() if value != 0 and value != settings.ignore_label}
    wanted = named | {name: tuple(values) for name, values in (naming.get("regions") or {}).items()}
    known = None if labels is None else set(labels) - {settings.ignore_label}
    scored: list[CaseScores] = []
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        jobs = [(pair, pool.submit(_score_pair, pair, wanted, known, settings, change, names)) for pair in pairs]
        for done, ((name, *_), job) in enumerate(jobs, start=1):
            try:
                scored.append(job.result())
            except MedsegError as error:
                failed[name] = str(error)
            if progress:
                progress(done, len(pairs), name)
    found = wanted if labels is not None else _union_of_labels(scored, names) | wanted
    complete = [dataclasses.replace(case, labels=_with_absent(case.labels, found, settings)) for case in scored]
    complete = [_only_declared(case, found, (declared or {}).get(case.name)) for case in complete]
    return Evaluation(complete, found, settings, failed)


def refuse_synthetic_references(reference: Path) -> None:
    """Refuse references that `medseg synthesize` made: a score against them says nothing of patients. Raises DataError."""
    files = [reference] if reference.is_file() else list(_label_files(reference).values())
    if marked := synthetic_among(files):
        raise DataError(
            f"{reference}: {len(marked)} of {len(files)} references such as {marked[0]} are synthetic; name real ones, or "
            "score against them all the same with --allow-synthetic"
        )


def with_labels(evaluation: Evaluation, regions: Mapping[str, tuple[int, ...]]) -> Evaluation:
    """The scores with a row for each of `regions`; what none of the maps scored here holds is undefined, with that reason."""
    cases = [
        dataclasses.replace(case, labels=_with_absent(case.labels, regions, evaluation.settings))
        for case in evaluation.cases
    ]
    return dataclasses.replace(evaluation, cases=cases, regions=dict(regions))


def pair_cases(
    prediction: FilePath, reference: FilePath, *, cases: Literal["all", "predicted", "common"] | Sequence[str] = "all"
) -> tuple[list[Pair], list[str]]:
    """Pairs of files by case name, and the names of references left out; see `evaluate_folders`."""
    left, right = Path(prediction), Path(reference)
    if left.is_file() and right.is_file():
        return [(case_name(right), left, right)], []
    predicted, true = _label_files(left), _label_files(right)
    both = sorted(predicted.keys() & true.keys())
    if isinstance(cases, str):
        if cases not in ("all", "predicted", "common"):
            raise ValueError(f"cases is 'all', 'predicted', 'common' or a list of names, not {cases!r}")
        if cases == "common" and not both:
            way_out = _way_out(sorted(predicted), true, both, predicted_helps=False)
            _refuse_missing("prediction", sorted(predicted), "reference", right, way_out)
        names = both if cases == "common" else sorted(true if cases == "all" else predicted)
        extra = [] if cases == "common" else sorted(predicted.keys() - true.keys())
        _refuse_missing("prediction", extra, "reference", right, _way_out(extra, true, both, predicted_helps=False))
    else:
        names = sorted(set(cases))
    unknown = [name for name in names if name not in true]
    _refuse_missing("case", unknown, "reference", right, _way_out(unknown, true, both, predicted_helps=False))
    lacking = [name for name in names if name not in predicted]
    helps = _way_out(lacking, predicted, both, predicted_helps=predicted.keys() <= true.keys())
    _refuse_missing("reference", lacking, "prediction", left, helps)
    return [(name, predicted[name], true[name]) for name in names], sorted(true.keys() - set(names))


def _label_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UnreadableFileError(f"{folder}: no such folder of label maps; check the path")
    listed = [] if any(is_volume_file(path) for path in folder.iterdir()) else label_maps(folder)
    if listed:
        twice = sorted({name for name, _ in listed if [other for other, _ in listed].count(name) > 1})
        if twice:
            raise DataError(f"{folder}: two label maps belong to case {twice[0]!r}; name the folder of those to score")
        return dict(listed)
    files = [path for path in sorted(folder.iterdir()) if is_volume_file(path) and not is_temporary(path)]
    files = [path for path in files if not _beside_labels(path, {case_name(other) for other in files})]
    if not files:
        raise DataError(f"{folder}: holds no label maps (looked for {', '.join(READABLE)})")
    found: dict[str, Path] = {}
    for path in files:
        if (other := found.get(case_name(path))) is not None:
            raise DataError(f"{folder}: {other.name} and {path.name} are both case {case_name(path)!r}; keep one")
        found[case_name(path)] = path
    return found


def _beside_labels(path: Path, cases: Collection[str]) -> bool:
    """Whether a file holds what `predict --probabilities` or `--uncertainty` writes beside the label map of a case."""
    name = case_name(path)
    owner = name.removesuffix(UNCERTAINTY)
    if owner != name and owner in cases:
        record = read_record(path.with_name(owner + RECORD)) or {}
        return "uncertainty" in record.get("outputs_sha256", {})
    case = name.removesuffix(PROBABILITIES)
    if case == name or case not in cases:
        return False
    try:
        header = read_header(path)
    except MedsegError:
        return False  # said when it is read
    return header.channels > 1 or np.dtype(header.dtype).kind == "f"


def _refuse_missing(whose: str, names: Sequence[str], what: str, folder: Path, way_out: str) -> None:
    if not names:
        return
    some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    raise DataError(f"{folder}: no {what} for the {whose}{'s' if len(names) > 1 else ''} {some}. {way_out}")


def _way_out(missing: Sequence[str], there: Collection[str], both: Sequence[str], *, predicted_helps: bool) -> str:
    """What works: another name, the cases that were predicted, or those that both sides have."""
    near = near_match(missing[0], [name for name in there if name not in both]) if missing else None
    if near is not None:
        return f"Case {near!r} there looks like {missing[0]!r}: give both files one name."
    if not both:
        return f"The two folders have no case name in common; there are {', '.join(sorted(there)[:3])}, ... Rename the files."
    if predicted_helps:
        return "Score the predicted cases only with --cases predicted (cases='predicted')."
    return "Score what both folders have with --cases common (cases='common')."


def _score_pair(
    pair: Pair,
    regions: Mapping[str, Sequence[int]],
    known: set[int] | None,
    settings: ScoreSettings,
    change: Callable[[LabelXYZ, Affine], LabelXYZ] | None,
    names: Mapping[int, str],
) -> CaseScores:
    name, prediction_path, reference_path = pair
    reference, prediction = read_label(reference_path), read_label(prediction_path)
    if (difference := grid_difference(reference, prediction)) is not None:
        raise DataError(
            f"case {name!r}: reference {reference_path} and prediction {prediction_path} lie on different grids: "
            f"{difference}. Resample the prediction first: "
            "medseg.io.resample.resample_to_grid(prediction, like=reference, mode='nearest')."
        )
    if change is not None:
        prediction.array = change(prediction.array, prediction.affine)
    if known is None:
        known = (_values(reference.array) | _values(prediction.array)) - {settings.ignore_label}
        plain = sorted(known - {0})
        regions = {names.get(value, str(value)): (value,) for value in plain} | dict(regions)
    try:
        scores = score_case(
            reference.array,
            prediction.array,
            spacing=spacing_of(reference.affine),
            regions=regions,
            known_labels=known,
            settings=settings,
        )
    except MedsegError as error:
        raise type(error)(f"case {name!r} ({prediction_path} against {reference_path}): {error}") from error
    return CaseScores(name, scores, prediction_path, reference_path, spacing_of(reference.affine))


def _values(array: LabelXYZ) -> set[int]:
    if array.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(array.ravel(order="K"), minlength=256)).tolist())
    return set(np.unique(array).tolist())


def _union_of_labels(cases: Iterable[CaseScores], names: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    found = {name for case in cases for name in case.labels}
    named = {value for value, name in names.items() if name in found}
    values = named | {int(name) for name in found if name.lstrip("-").isdigit()}
    return {names.get(value, str(value)): (value,) for value in sorted(values)}


def _with_absent(
    labels: Mapping[str, LabelScores], regions: Mapping[str, Sequence[int]], settings: ScoreSettings
) -> dict[str, LabelScores]:
    """A row for each label, also for those that neither of the case's two maps holds."""
    missing = {name: values for name, values in regions.items() if name not in labels}
    nothing = np.zeros((1, 1, 1), dtype=np.uint8)
    absent = score_case(nothing, nothing, spacing=(1.0, 1.0, 1.0), regions=missing, settings=settings)
    return {name: labels[name] if name in labels else absent[name] for name in regions}


def _only_declared(
    case: CaseScores, regions: Mapping[str, Sequence[int]], declared: Collection[int] | None
) -> CaseScores:
    """The case without scores of labels that nobody annotated in it."""
    if declared is None:
        return case
    labels = dict(case.labels)
    for name, values in regions.items():
        if not set(values) <= set(declared):
            metrics = labels[name].values
            labels[name] = LabelScores(dict.fromkeys(metrics, float("nan")), dict.fromkeys(metrics, NOT_ANNOTATED))
    return dataclasses.replace(case, labels=labels)
