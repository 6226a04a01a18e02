"""Predict many cases with workers that may die: actors of Ray (`--workers ray`), or one watched process (`--part i/N`)."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.bundle.load import load_bundle
from medseg.cases.batch import CaseResult
from medseg.cases.cohort import Cohort, Pool
from medseg.cases.measures import rows_to_csv
from medseg.cases.outputs import CSV_NAME, SUMMARY_NAME, CaseOutputs, OutputOptions
from medseg.cases.parts import Part, PartReport, alone_with
from medseg.cases.record import is_finished
from medseg.errors import ConfigError
from medseg.heartbeat import step
from medseg.io import Case, write_json, write_text
from medseg.io.atomic import remove_leftovers
from medseg.record import read_record
from medseg.types import FilePath

from .asked import Asked
from .cohort_worker import Order
from .predict_job import make_job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spread:
    """Over what the cases are spread.

    Args:
        workers: `ray` or `ray=ADDRESS`; None for one watched process.
        part: which of the cases.
        limit_s: seconds that a case may take before its worker is replaced.
        threads: CPU threads of each worker.
        size: workers; None for one per device.
    """

    workers: str | None = None
    part: Part = field(default_factory=Part)
    limit_s: float = 3600.0
    threads: int | None = None
    size: int | None = None


def predict_cohort(
    bundle: FilePath,
    words: Sequence[FilePath],
    asked: Asked,
    spread: Spread,
    *,
    finished: Callable[[CaseResult, int, int], None] | None = None,
) -> list[CaseResult]:
    """Predict the cases with workers; what is finished already is skipped, whether or not it was asked for.

    Args:
        bundle: folder of a bundle that this user trusts to run without a child process.
        words: what `find_inputs` takes.
        asked, spread: see there.
        finished: called with (result, cases done, cases in all).

    Returns:
        A result for each case, without measures: they stand in the records, so that memory does not grow with the cohort.

    Raises:
        MedsegError: nothing could be done at all.
    """
    if spread.limit_s <= 0:
        raise ConfigError(f"--case-limit is {spread.limit_s:g} s; expected more than 0")
    if spread.workers is not None:
        from .cohort_ray import parse_workers

        parse_workers(spread.workers)  # before anything is read
    opened = load_bundle(str(bundle), trust=asked.trust).of_shown_files()
    cases, mask = asked.cases(opened, words)
    cases = spread.part.cases(cases)
    options = asked.options
    if (
        options.engine == "auto"
    ):  # each worker would time the engines for itself, and might find another one the fastest
        options = dataclasses.replace(options, engine="eager")
    outputs = dataclasses.replace(asked.outputs, resume=True)
    job = make_job(opened, outputs, options, anyway=asked.anyway, count=len(cases))
    folder = outputs.folder
    folder.mkdir(parents=True, exist_ok=True)
    order = Order(
        str(bundle), outputs, options, asked.trust, asked.anyway, len(cases), spread.threads, job.request_hash
    )
    with alone_with(folder, spread.part), mask.over_messages() if mask else nullcontext():
        remove_leftovers(folder)
        done = set(_finished_already(cases, outputs, job.labels, job.request_hash))
        report = PartReport(folder, spread.part, len(cases), skipped=len(done))
        results = [CaseResult(case.name, "skipped") for case in cases if case.name in done]
        left = [case for case in cases if case.name not in done]
        try:
            for result in _run(left, order, spread, report):
                light = CaseResult(result.name, result.status, error=result.error, seconds=result.seconds)
                results.append(mask.result(light) if mask else light)
                report.count(results[-1])
                if finished is not None:
                    finished(results[-1], len(results), len(cases))
        finally:
            report.write(ended=True)
            remove_leftovers(folder)
        _write_summary(folder, results, spread.part)
    return results


def _finished_already(cases: Sequence[Case], outputs: OutputOptions, labels: Any, request: str) -> Iterator[str]:
    with step("looking for finished cases", len(cases), "cases") as told:
        for number, case in enumerate(cases, 1):
            if is_finished(CaseOutputs.of(case, labels, outputs), request, case, statistics=outputs.statistics):
                yield case.name
            told.advance(number)


def _run(cases: Sequence[Case], order: Order, spread: Spread, report: PartReport) -> Iterator[CaseResult]:
    if not cases:
        return
    pool = _pool(order, spread)

    def started(names: list[str]) -> None:
        report.running = names
        report.write()

    yield from Cohort(pool, spread.limit_s, started=started).run(cases)


def _pool(order: Order, spread: Spread) -> Pool:
    if spread.workers is None:
        from .cohort_processes import ProcessPool

        return ProcessPool(order, spread.size or 1)
    from .cohort_ray import RayPool, connect, parse_workers

    connect(parse_workers(spread.workers))
    return RayPool(order, on_gpus=order.options.device not in ("cpu", "mps"), size=spread.size)


def _write_summary(folder: Path, results: Sequence[CaseResult], part: Part) -> None:
    """volumes.csv from the records, row by row, and summary.json; a part leaves both to `medseg cluster status`."""
    if part.count > 1:
        return
    names = [result.name for result in results if result.status != "failed"]
    write_tables(folder, sorted(names))
    counts = {kind: sum(result.status == kind for result in results) for kind in ("done", "skipped", "failed")}
    write_json(folder / SUMMARY_NAME, {**counts, "cases": [result.to_dict() for result in results]})


def write_tables(folder: Path, names: Sequence[str]) -> int:
    """Write volumes.csv of cases that have a record; returns the number of rows."""
    text, rows = io.StringIO(), 0
    writer: csv.DictWriter[str] | None = None
    for name in names:
        record = read_record(folder / f"{name}.json")
        measured = [{"case": name, **row} for row in (record or {}).get("labels", [])]
        for row in csv.DictReader(io.StringIO(rows_to_csv(measured))):  # with its own spelling of each cell
            if writer is None:
                writer = csv.DictWriter(text, list(row), restval="", extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            rows += 1
    if rows:
        write_text(folder / CSV_NAME, text.getvalue())
    return rows
