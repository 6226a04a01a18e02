"""medseg stress: what breaks a model, and from which strength on?"""

from __future__ import annotations

import argparse
import json

from medseg.errors import printable

from .consent import consent
from .main import EXIT_OK, add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name of a trained bundle")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of labelled volumes")
    parser.add_argument("--shifts", nargs="+", default=[], metavar="NAME", help="those to try (default: all that fit)")
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME",
                        help="cases to try (default: those that the first fold did not train on)")  # fmt: skip
    parser.add_argument(
        "--fold", type=int, metavar="N", help="one fold's network (default: all that the bundle averages)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--output", metavar="DIR", help="write stress.json and report.html there")
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def run(arguments: argparse.Namespace) -> int:
    from medseg.assurance.stress_curves import HEADER, rows
    from medseg.commands.stress import Asked, stress
    from medseg.evaluation.digits import text_table
    from medseg.inference.settings import PredictOptions

    asked = Asked(tuple(arguments.shifts), tuple(arguments.cases), arguments.seed)
    options = PredictOptions(device=arguments.device, fold=arguments.fold)
    found = stress(arguments.bundle, arguments.data, asked, options=options, trust=consent(arguments))
    if arguments.output:
        found.write(arguments.output)
    if arguments.json:
        print(json.dumps(found.as_dict(), allow_nan=False))
        return EXIT_OK
    print(text_table(HEADER, [[printable(cell) for cell in row] for row in rows(found.curves)]))
    for note in found.notes:
        print(note)
    if arguments.output and not arguments.quiet:
        print(f"written to {printable(arguments.output)}")
    return EXIT_OK
