"""medseg cluster: predict a cohort with a job array, and see how far it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg.errors import printable

from .consent import consent
from .main import EXIT_OK, EXIT_SOME_FAILED, add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    slurm = actions.add_parser(
        "slurm", help="write the list of cases and the script of a SLURM array that predicts them"
    )
    slurm.add_argument("bundle", metavar="BUNDLE", help="folder or name of a bundle")
    slurm.add_argument("-i", "--input", nargs="+", required=True, metavar="INPUT", help="as for medseg predict")
    slurm.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a folder that all machines see")
    slurm.add_argument("--nodes", type=int, required=True, metavar="N", help="tasks of the array")
    slurm.add_argument("--gpus", type=int, default=1, metavar="N", help="of each task; 0 for none (default: 1)")
    slurm.add_argument("--cpus", type=int, default=8, metavar="N", help="of each task (default: 8)")
    slurm.add_argument("--hours", type=int, default=8, metavar="N", help="time limit of a task (default: 8)")
    slurm.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="such as --sbatch=--partition=gpu"
    )
    slurm.add_argument(
        "--word", action="append", default=[], metavar="WORD", help="of predict, such as --word=--no-preview"
    )
    add_common_arguments(slurm, "json", "quiet", "trust")
    status = actions.add_parser("status", help="how many cases are done, running and failed, from the records")
    status.add_argument("output", type=Path, metavar="DIR", help="the output folder")
    add_common_arguments(status, "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to one function per action; returns the exit code."""
    return {"slurm": _slurm, "status": _status}[arguments.action](arguments)


def _slurm(arguments: argparse.Namespace) -> int:
    from medseg.commands.cluster import Array, write_array

    array = Array(
        arguments.nodes, arguments.gpus, arguments.cpus, arguments.hours, tuple(arguments.sbatch), tuple(arguments.word)
    )
    script = write_array(arguments.bundle, arguments.input, arguments.output, array, trust=consent(arguments))
    if arguments.json:
        print(json.dumps({"script": str(script)}))
    else:
        print(f"next: sbatch {printable(str(script))}, then medseg cluster status {printable(str(arguments.output))}")
    return EXIT_OK


def _status(arguments: argparse.Namespace) -> int:
    from medseg.commands.cluster import status_of

    status = status_of(arguments.output)
    if arguments.json:
        print(json.dumps(status.to_dict()))
    else:
        total = "" if status.cases is None else f" of {status.cases}"
        print(f"{status.done}{total} cases done, {len(status.running)} running, {len(status.failed)} failed")
        lines = [*status.parts, *(f"{name}: {why}" for name, why in sorted(status.failed.items()))]
        print("\n".join(printable(line) for line in lines))
    return EXIT_SOME_FAILED if status.failed else EXIT_OK
