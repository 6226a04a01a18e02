"""medseg synthesize: new images with label maps, for training only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg.errors import printable

from .consent import consent
from .main import EXIT_OK, add_common_arguments
from .words import at_least_one

CHEAP = ("warp", "paint", "gin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    plan = actions.add_parser("plan", help="plan a generator (DiffiT) of images for label maps; medseg fit trains it")
    plan.add_argument("--data", required=True, metavar="DIR", help="folder of labelled volumes")
    plan.add_argument("--output", required=True, metavar="GEN", help="folder of the generator, a bundle")
    plan.add_argument("--size", default="nano", metavar="NAME", help="tiny, nano, small or base (default: nano)")
    plan.add_argument("--folds", type=int, default=5, metavar="N", help="folds (default: 5)")
    add_common_arguments(plan, "json", "quiet")
    sample = actions.add_parser("sample", help="write pairs of image and label map as a data set marked as synthetic")
    sample.add_argument(
        "source", metavar="GEN|warp|paint|gin", help="a trained generator, or how real pairs are changed"
    )
    sample.add_argument("--data", required=True, metavar="DIR", help="real labelled volumes whose label maps are taken")
    sample.add_argument("--count", type=at_least_one, required=True, metavar="N", help="pairs to make")
    sample.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    sample.add_argument("--cases", nargs="+", default=[], metavar="NAME", help="real cases to take (default: all)")
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    sample.add_argument("--steps", type=int, default=36, metavar="N", help="of the generator's sampler (default: 36)")
    sample.add_argument("--guidance", type=float, default=1.0, metavar="S",
                        help="above 1 exaggerates what the label map asks for (default: 1)")  # fmt: skip
    add_common_arguments(sample, "device", "threads", "json", "quiet", "trust")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to one function per action; returns the exit code."""
    return {"plan": _plan, "sample": _sample}[arguments.action](arguments)


def _plan(arguments: argparse.Namespace) -> int:
    from medseg.commands.synthesize_plan import plan_generator

    facts = plan_generator(arguments.data, arguments.output, size=arguments.size, folds=arguments.folds)
    if arguments.json:
        print(json.dumps(facts))
    elif not arguments.quiet:
        print("\n".join(f"{name}: {value}" for name, value in facts.items()))
        print(f"next: medseg fit {printable(arguments.output)}")
    return EXIT_OK


def _sample(arguments: argparse.Namespace) -> int:
    taken = {"count": arguments.count, "seed": arguments.seed, "cases": arguments.cases}
    if arguments.source in CHEAP and not Path(arguments.source).is_dir():
        from medseg.commands.synthesize import synthesize_pairs

        names = synthesize_pairs(arguments.source, arguments.data, arguments.output, **taken)
    else:
        from medseg.commands.synthesize_sample import Sampling, sample_generator

        how = Sampling(arguments.steps, arguments.guidance, arguments.device, consent(arguments))
        names = sample_generator(arguments.source, arguments.data, arguments.output, how=how, **taken)
    if arguments.json:
        print(json.dumps({"output": arguments.output, "cases": names}))
    elif not arguments.quiet:
        print(f"{len(names)} synthetic pairs in {printable(arguments.output)}, for training only")
        print(f"next: medseg fit BUNDLE --synthetic {printable(arguments.output)} --ratio 1")
    return EXIT_OK
