"""medseg pretrain: learn from images without labels."""

from __future__ import annotations

import argparse

from .duration import parse_duration
from .main import EXIT_OK, add_common_arguments
from .screen import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key::path=value", help="values of train.json to change")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of images; labels in it are not read")
    parser.add_argument("--output", required=True, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--preset", default="mambavision", metavar="NAME", help="network (default: mambavision)")
    parser.add_argument("--task", default="volume_fusion", metavar="NAME",
                        help="volume_fusion: say how much of another volume is mixed in where")  # fmt: skip
    parser.add_argument("--budget", type=parse_duration, default=None, metavar="2h", help="time, such as 20m")
    parser.add_argument("--resume", action="store_true", help="continue where the run stopped")
    parser.add_argument("--overwrite", action="store_true", help="set a bundle that is there aside")
    add_common_arguments(parser, "device", "threads", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.pretrain import Pretraining, pretrain_bundle
    from medseg.config import parse_overrides

    asked = Pretraining(
        arguments.task, arguments.preset, arguments.resume, arguments.budget, parse_overrides(arguments.overrides),
        arguments.device, arguments.overwrite,
    )  # fmt: skip
    facts = pretrain_bundle(arguments.data, arguments.output, asked)
    done = f"{facts['steps']} steps on {len(facts['cases'])} volumes"
    text = f"{done}\nnext: medseg adapt {arguments.output} --data DIR --output BUNDLE"
    say(arguments, facts, text)
    return EXIT_OK
