"""medseg cv: compare bundles and folds, choose an ensemble and post-processing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ConfigError, printable
from medseg.heartbeat import Step, step

from . import confined
from .consent import consent
from .main import EXIT_OK, add_common_arguments

if TYPE_CHECKING:
    from medseg.commands.cv import CrossValidation

FEW_LABELS = 12  # with more, the rows of each label stand in the report alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", nargs="+", metavar="BUNDLE", help="folder or name of a trained bundle; several compare"
    )
    parser.add_argument("--dry-run", action="store_true", help="compare and report, but write nothing into the bundle")
    parser.add_argument(
        "--output", metavar="FILE", help="the HTML report (default: docs/cross_validation.html in the chosen bundle)"
    )
    parser.add_argument("--tolerance-mm", type=float, default=1.0, metavar="MM", help="of the surface Dice (default 1)")
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def run(arguments: argparse.Namespace) -> int:
    from medseg.bundle.made_here import stays_ours
    from medseg.commands.cv import cross_validate
    from medseg.commands.cv_record import record_choice, write_cv_report
    from medseg.evaluation import ScoreSettings

    if arguments.output and Path(arguments.output).is_dir():
        raise ConfigError(
            f"--output {arguments.output}: is a folder; name the HTML file, such as {arguments.output}/cv.html"
        )
    with step("opening the bundles") as counted:
        result = cross_validate(
            arguments.bundle,
            device=arguments.device,
            trust=consent(arguments),
            settings=ScoreSettings(tolerance_mm=arguments.tolerance_mm),
            workers=arguments.threads or 1,
            progress=confined.tell_progress
            or (None if arguments.quiet or arguments.json else partial(_show_progress, counted)),
        )
    if not arguments.dry_run:
        with stays_ours(result.bundle.folder):
            record_choice(result, report=not arguments.output)
    report = Path(arguments.output) if arguments.output else result.bundle.layout.cross_validation_report
    if arguments.output:
        write_cv_report(result, report)
    _print(result, arguments, report)
    return EXIT_OK


def _show_progress(counted: Step, what: str, done: int, total: int, case: str) -> None:
    if counted.title != what:
        counted.began = time.monotonic()
    counted.title, counted.total, counted.unit, counted.done = what, total, "cases", done
    if sys.stderr.isatty():
        print(f"\r\033[K{what}: {done} of {total} {printable(case):.40}", end="", file=sys.stderr, flush=True)


def _tables(result: CrossValidation) -> list[str]:
    """What the report says, without its pictures and its single cases."""
    from medseg.commands.cv_tables import candidates, comparisons, tried
    from medseg.evaluation.digits import text_table

    few = len(result.bundle.labels) <= FEW_LABELS
    tables = [text_table(*candidates(result))]
    tables += [f"{name} was not tried as an ensemble: {reason}" for name, reason in result.left_out.items()]
    if result.comparisons:
        tables.append(text_table(*comparisons(result, every_label=few)))
    if few and result.selection.trials:
        header, rows = tried(result)
        tables.append(text_table(header, [[printable(cell) for cell in row] for row in rows]))
    steps = ", after post-processing" if result.selection.steps else "; no post-processing improved it"
    return [*tables, f"chosen: {result.chosen}{steps}\n{result.final.table()}"]


def _print(result: CrossValidation, arguments: argparse.Namespace, report: Path) -> None:
    if arguments.json:
        facts = result.as_dict()
        print(json.dumps({key: facts[key] for key in ("chosen", "postprocessing", "practice")}))
        return
    if sys.stderr.isatty() and not arguments.quiet:
        print("\r\033[K", end="", file=sys.stderr)
    if arguments.quiet:
        return
    for table in _tables(result):
        print(table + "\n")
    print("nothing written (--dry-run)" if arguments.dry_run else f"written into {result.bundle.folder}")
    if arguments.output or not arguments.dry_run:
        print(f"report: {report}")
