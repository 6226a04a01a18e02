"""medseg demo: the whole path on a small dataset made on the spot."""

from __future__ import annotations

import argparse
from pathlib import Path

from .main import add_common_arguments
from .screen import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="runs/demo", metavar="DIR", help="where everything goes (default: runs/demo)"
    )
    parser.add_argument("--force", action="store_true", help="start from nothing, also what is done already")
    add_common_arguments(parser, "device", "threads", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.demo import run_demo

    report = run_demo(Path(arguments.output), device=arguments.device, force=arguments.force)
    say(arguments, {"report": str(report)}, f"open {report}")
    return 0
