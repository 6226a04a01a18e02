"""medseg plan: turn a folder of labelled volumes into a bundle."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from pathlib import Path

from medseg.errors import ConfigError, printable

from .duration import parse_duration
from .main import EXIT_OK, EXIT_USAGE, add_common_arguments
from .words import UsageError

log = logging.getLogger(__name__)
UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="Decathlon, nnU-Net or images/ + labels/ folder")
    parser.add_argument(
        "--output", metavar="BUNDLE", help="folder of the bundle to write: new, empty, or planned before"
    )
    parser.add_argument("--apply", metavar="BUNDLE", help="take an edited plan.json over into the bundle's other files")
    parser.add_argument("--overwrite", action="store_true", help="set the bundle in --output aside and plan anew")
    parser.add_argument(
        "--preset", default=None, metavar="NAME", help="network, see `medseg networks` (default: mambavision)"
    )
    parser.add_argument("--size", default=None, metavar="NAME", help="size of the preset (default: nano)")
    parser.add_argument(
        "--memory", type=parse_memory, default=None, metavar="8GB", help="of a training step; alone: GB"
    )
    parser.add_argument(
        "--budget", type=parse_duration, default=None, metavar="2h", help="time to train each fold, such as 40m"
    )
    parser.add_argument("--folds", type=int, default=5, help="folds, unless the dataset brings its own (default: 5)")
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="NAME=1,2",
        help="learn this union of labels; repeatable, largest first",
    )
    parser.add_argument(
        "--dims", choices=["auto", "2", "3"], default="auto", help="2D or 3D network (default: by the slices)"
    )
    parser.add_argument(
        "--stages",
        choices=["auto", "1", "2"],
        default="auto",
        help="2 trains a low-resolution network first (for --fast)",
    )
    parser.add_argument(
        "--missing-channels",
        choices=["error", "zero"],
        default="error",
        help="zero: train cases that lack a channel file",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key::path=value", help="values of plan.json to set, or project=FOLDER"
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="JSON file with such values")
    parser.add_argument("--explain", action="store_true", help="print each value with its reason")
    add_common_arguments(parser, "device", "json", "quiet", "trust")


class BareNumber(float):
    """Bytes of an amount that was given without a unit."""


def parse_memory(text: str) -> float:
    """Bytes of `8GB`, `800MB`, `8` (GB).

    Example:
        >>> parse_memory("1.5GB")
        1500000000.0
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(?:([kmgt])i?b?)?\s*", text.lower())
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; expected such as 8GB or 800MB")
    number = float(match[1])
    return BareNumber(number * UNITS["g"]) if match[2] is None else number * UNITS[match[2]]


def run(arguments: argparse.Namespace) -> int:
    bare = [word for word in arguments.overrides if "=" not in word]
    if bare:
        written = " ".join(f"{option} {word}" for option, word in zip(("--data", "--output"), bare, strict=False))
        raise UsageError(f"unexpected word {bare[0]!r}: every input has an option here; write {written}")
    if arguments.apply is not None:
        return _apply(arguments)
    missing = [f"--{name}" for name in ("data", "output") if getattr(arguments, name) is None]
    if missing:
        print(
            f"medseg plan: the following arguments are required: {', '.join(missing)} (see medseg plan --help)",
            file=sys.stderr,
        )
        return EXIT_USAGE
    from medseg.commands.plan import plan_bundle
    from medseg.config import parse_overrides
    from medseg.planning.length import in_words

    from .label_table import parse_region

    if arguments.folds < 2:
        raise ConfigError(f"--folds is {arguments.folds}; expected at least 2")
    if isinstance(arguments.memory, BareNumber):
        amount = arguments.memory / UNITS["g"]
        log.info("--memory %g is taken as %g GB; write --memory %gGB, or another unit", amount, amount, amount)
    plan = plan_bundle(
        Path(arguments.data),
        Path(arguments.output),
        preset=arguments.preset,
        size=arguments.size,
        memory_bytes=arguments.memory,
        folds=arguments.folds,
        spatial_dims=None if arguments.dims == "auto" else int(arguments.dims),
        stages=None if arguments.stages == "auto" else int(arguments.stages),
        missing_channels=arguments.missing_channels,
        budget_s=arguments.budget,
        regions=dict(parse_region(text) for text in arguments.region),
        device=arguments.device,
        overwrite=arguments.overwrite,
        overrides=parse_overrides(arguments.overrides),
        files=[Path(file) for file in arguments.config],
    )
    if arguments.json:
        print(json.dumps(plan.to_dict()))
        return 0
    if arguments.explain:
        print(plan.explain())
    else:
        for warning in plan.warnings:
            print(f"note: {printable(warning)}")
    if arguments.quiet:
        return 0
    print(f"bundle {arguments.output}: {plan.fingerprint['cases']} cases, {len(plan.labels) - 1} labels, ", end="")
    print(f"spacing {plan.spacing} mm, roi_size {plan.roi_size}, batch {plan.batch_size}")
    budget = plan.optimization.get("budget_s")
    print(f"next: medseg fit {arguments.output} --fold 0" + ("" if budget is None else f"  (for {in_words(budget)})"))
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from medseg.commands.plan_apply import apply_plan

    changes = apply_plan(arguments.apply, trust=arguments.trust)
    if arguments.json:
        print(json.dumps({each.place: {"from": each.found, "to": each.planned} for each in changes}))
        return EXIT_OK
    if arguments.quiet:
        return EXIT_OK
    for each in changes:
        print(f"{each.file}: {each.place} {json.dumps(each.found)} -> {json.dumps(each.planned)}")
    print(f"{arguments.apply}: {len(changes) or 'no'} value{'' if len(changes) == 1 else 's'} changed")
    return EXIT_OK
