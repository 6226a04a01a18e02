"""medseg probe: how far does a token mixer look?"""

from __future__ import annotations

import argparse
import json

from .duration import parse_duration
from .main import EXIT_OK, add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mixers", nargs="*", metavar="MIXER", help="those to probe (default: all)")
    parser.add_argument(
        "--distances", nargs="+", type=int, default=[3, 6, 12], metavar="N", help="voxels away (default: 3 6 12)"
    )
    parser.add_argument(
        "--budget", type=parse_duration, default=180.0, metavar="3m", help="time of a mixer (default: 3m)"
    )
    parser.add_argument("--steps", type=int, default=600, metavar="N", help="of a distance, at most (default: 600)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    add_common_arguments(parser, "threads", "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.probe import SOLVED, Effort, Reach, probe
    from medseg.evaluation.digits import text_table

    def told(reach: Reach) -> None:
        if not arguments.quiet and not arguments.json:
            print(f"{reach.mixer} at {reach.distance}: {reach.accuracy:.2f} after {reach.seconds:.0f} s", flush=True)

    effort = Effort(arguments.budget, arguments.steps, arguments.seed)
    found = probe(arguments.mixers, distances=arguments.distances, effort=effort, told=told)
    if arguments.json:
        print(json.dumps([reach.as_dict() for reach in found]))
        return EXIT_OK
    directions = list(found[0].along)
    rows = [
        [one.mixer, str(one.distance), f"{one.accuracy:.2f}", *(f"{one.along[way]:.2f}" for way in directions),
         "yes" if one.accuracy >= SOLVED else "no"]
        for one in found
    ]  # fmt: skip
    print(text_table(["mixer", "distance", "right", *directions, "sees it"], rows))
    return EXIT_OK
