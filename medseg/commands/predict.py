"""Predict with a bundle: check the inputs, open the bundle, run the cases, write labels, measures and records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from medseg.bars import notebook_bar
from medseg.bundle.catalogue import find_bundle
from medseg.bundle.load import Trust, load_bundle
from medseg.cases.anonymous import Mask
from medseg.cases.batch import CaseResult, Job, Reading, run_cases
from medseg.cases.measures import rows_to_csv
from medseg.cases.outputs import CSV_NAME, REVIEW_NAME, SUMMARY_NAME
from medseg.cases.parts import Part, alone_with
from medseg.cases.scope import sum_up
from medseg.config import read_json
from medseg.errors import MedsegError, UntrustedBundleError
from medseg.inference.settings import PredictOptions
from medseg.io import Case, find_inputs, write_json, write_text
from medseg.io.atomic import remove_leftovers
from medseg.record import PICTURE
from medseg.types import FilePath

from .asked import Asked, Words
from .cohort import Spread, predict_cohort
from .contained import needs_child, run_contained
from .predict_job import make_job

log = logging.getLogger(__name__)

MANY = 100_000  # cases, where they cannot be counted
Progress = Callable[[str, int, int], None]
Finished = Callable[[CaseResult, int, int], None]


@dataclass
class Prediction:
    """What became of a run."""

    folder: Path
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def failed(self) -> list[CaseResult]:
        return [case for case in self.cases if case.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        counts = {kind: sum(case.status == kind for case in self.cases) for kind in ("done", "skipped", "failed")}
        return {**counts, "cases": [case.to_dict() for case in self.cases]}


def predict_bundle(
    bundle: FilePath,
    inputs: FilePath | Sequence[FilePath],
    output: FilePath = "predictions",
    *,
    options: PredictOptions | None = None,
    trust: Trust = False,
    spread: Spread | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
    **words: Unpack[Words],
) -> Prediction:
    """Segment volumes with a bundle, as `medseg predict` does; a stranger's bundle in a child process with limits.

    Args:
        bundle: folder or name of a bundle.
        inputs: files, folders, patterns, csv lists, DICOM folders.
        output: folder for NAME.nii.gz, NAME.json (record and volumes), NAME.png, volumes.csv and summary.json.
        options: how to predict.
        trust: let the bundle run code that is not on the allow-list; see `load_bundle`.
        spread: over workers, or a part of the cases; see `medseg.commands.cohort`.
        progress: called with (case, windows done, windows in all).
        finished: called with (result, cases done, cases in all).
        words: `suffix`, `one_file_per_label`, `probabilities`, `preview`, `statistics`, `resume` and `uncertainty` as of
            `OutputOptions`; `anonymous_names` and `anyway` as of `Asked`.

    Raises:
        MedsegError: nothing could be done at all. A case that fails is listed in the result instead.
    """
    asked = Asked.of(output, options, trust, words)
    return predict_asked(bundle, inputs, asked, spread=spread, progress=progress, finished=finished)


def predict_asked(
    bundle: FilePath,
    inputs: FilePath | Sequence[FilePath],
    asked: Asked,
    *,
    spread: Spread | None = None,
    read_already: dict[tuple[Path, ...], Reading] | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
) -> Prediction:
    """`predict_bundle` with its settings as one record.

    Args:
        bundle, inputs, asked, spread, progress, finished: see `predict_bundle`.
        read_already: volumes that `medseg.cases.batch.first_look` read; a child reads them itself.
    """
    words = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Sequence) else list(inputs)
    found, folder = find_bundle(str(bundle)), asked.outputs.folder
    if spread is not None:
        return Prediction(folder, _spread_out(found, words, asked, spread, finished))
    with notebook_bar("window") as shown:
        progress = progress or shown
        if not needs_child(found):
            return predict_here(found, words, asked, read_already=read_already, progress=progress, finished=finished)
        request = {"bundle": str(found), "inputs": [str(word) for word in words], "asked": asked.to_dict()}
        cases = _at_most(words)
        done = run_contained(found, request, cases=cases, trust=asked.trust, progress=progress, finished=finished)
        return Prediction(folder, done.cases)


def _spread_out(
    found: Path, words: Sequence[FilePath], asked: Asked, spread: Spread, finished: Finished | None
) -> list[CaseResult]:
    if needs_child(found):
        raise UntrustedBundleError(
            f"{found}: is a stranger's bundle, which is opened in a child process with limits; workers have none. Predict "
            "without --workers and --part, or set MEDSEG_FOREIGN=inside to do without the limits"
        )
    return predict_cohort(found, words, asked, spread, finished=finished)


def _at_most(words: Sequence[FilePath]) -> int:
    """How many cases the words can mean; the number of channels, which makes fewer of them, is the bundle's to say."""
    try:
        return len(find_inputs(words, gaps=True))
    except MedsegError:
        return MANY  # such as a list with a column for each channel; what is wrong is told when the bundle is open


def predict_here(
    bundle: FilePath,
    words: Sequence[FilePath],
    asked: Asked,
    *,
    read_already: dict[tuple[Path, ...], Reading] | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
) -> Prediction:
    """`predict_asked` in this process, whoever made the bundle; the same arguments."""
    opened = load_bundle(str(bundle), trust=asked.trust).of_shown_files()
    cases, mask = asked.cases(opened, words)
    folder = asked.outputs.folder
    job = make_job(opened, asked.outputs, asked.options, anyway=asked.anyway, count=len(cases))
    job.progress, job.read_already = progress, read_already or {}
    folder.mkdir(parents=True, exist_ok=True)
    with alone_with(folder, Part()), mask.over_messages() if mask else nullcontext():
        remove_leftovers(folder)
        result = _run(cases, job, mask, finished)
        _write_summary(result, resume=asked.outputs.resume)
    return result


def _run(cases: Sequence[Case], job: Job, mask: Mask | None, finished: Finished | None) -> Prediction:
    result = Prediction(job.options.folder)
    try:
        for case in run_cases(cases, job):
            result.cases.append(mask.result(case) if mask else case)
            if finished is not None:
                finished(result.cases[-1], len(result.cases), len(cases))
    except MedsegError:  # an option or the model was refused: nothing is left that looks like a result
        with suppress(OSError):
            Part().claim(job.options.folder).unlink(missing_ok=True)
            job.options.folder.rmdir()  # only an empty one goes
        raise
    outside = sum_up({case.name: case.out_of_scope for case in result.cases if case.status == "done"})
    if outside:
        log.warning("%s", outside)
    return result


def _write_summary(result: Prediction, *, resume: bool) -> None:
    rows = [{"case": case.name, **row} for case in result.cases for row in case.measures]
    if resume:
        rows = _with_earlier(result, rows)
    if rows:
        write_text(result.folder / CSV_NAME, rows_to_csv(rows))
    _write_review(result.folder, rows)
    write_json(result.folder / SUMMARY_NAME, result.to_dict())


def _write_review(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The flagged cases as a page, worst first, where the bundle judges its cases."""
    if not any("flag" in row for row in rows):
        return
    from medseg.assurance.trust_section import review_section  # matplotlib and jinja2, for those who want it
    from medseg.evaluation.report.page import write_report

    cases: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), []).append(row)
    section = review_section(cases, {name: folder / f"{name}{PICTURE}" for name in cases})
    write_report(folder / REVIEW_NAME, "Review", [section], subtitle=f"{len(cases)} cases")


def _with_earlier(result: Prediction, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the skipped cases too, from their records, in the order of the cases."""

    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    for case in result.cases:
        if case.status == "skipped":
            record = read_json(result.folder / f"{case.name}.json")
            by_case[case.name] = [{"case": case.name, **row} for row in record["labels"]]
    return [row for case in result.cases for row in by_case.get(case.name, [])]
