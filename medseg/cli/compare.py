"""medseg compare: is one system better than another on the same cases?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.heartbeat import step

from .label_table import LabelTable, known_names, parse_region, read_label_table
from .main import EXIT_OK, add_common_arguments

if TYPE_CHECKING:
    from medseg.commands.compare import Compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prediction",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="folder of one system's label maps, of any tool; repeat it for each system",
    )
    parser.add_argument(
        "--reference", required=True, metavar="DIR", help="folder of reference label maps, or a dataset"
    )
    parser.add_argument(
        "--labels",
        metavar="SPEC",
        help="names of the label values, as in `medseg evaluate` (default: the values found)",
    )
    parser.add_argument(
        "--region", action="append", default=[], metavar="NAME=1,2", help="also score a union of labels; repeatable"
    )
    parser.add_argument(
        "--cases", nargs="+", default=["all"], metavar="NAME",
        help="all: each reference needs a prediction of every system (default); predicted: only the cases predicted; common: "
        "those that all sides have; or case names",
    )  # fmt: skip
    parser.add_argument("--tolerance-mm", type=float, default=1.0, metavar="MM", help="of the surface Dice (default 1)")
    parser.add_argument("--output", metavar="DIR", help="write comparison.json, the scores and report.html there")
    add_common_arguments(parser, "threads", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.compare import Labels, compare_predictions, system_names
    from medseg.evaluation import ScoreSettings

    systems = system_names(arguments.prediction)
    table = read_label_table(arguments.labels) if arguments.labels else LabelTable(None, {}, None)
    one_word = arguments.cases in (["all"], ["predicted"], ["common"])
    scored = Labels(
        table.labels,
        None if table.labels else known_names(next(iter(systems.values())), Path(arguments.reference)),
        table.regions | dict(parse_region(text) for text in arguments.region),
        arguments.cases[0] if one_word else arguments.cases,
    )
    settings = ScoreSettings(("overlap", "surface"), arguments.tolerance_mm, ignore_label=table.ignore)
    with step("scoring", len(systems), "systems"):
        found = compare_predictions(
            systems, arguments.reference, scored=scored, settings=settings, workers=arguments.threads or 1
        )
    if arguments.output:
        found.write(arguments.output)
    _print(found, arguments)
    return EXIT_OK


def _print(found: Compared, arguments: argparse.Namespace) -> None:
    from medseg.assurance.comparison_section import HEADER, rows
    from medseg.errors import printable
    from medseg.evaluation.digits import text_table

    if arguments.json:
        print(json.dumps(found.comparison.as_dict(), allow_nan=False))
        return
    print(text_table(HEADER, [[printable(cell) for cell in row] for row in rows(found.comparison.primary)]))
    for caution in found.comparison.cautions:
        print(caution)
    if arguments.output:
        print(f"written to {arguments.output}")
