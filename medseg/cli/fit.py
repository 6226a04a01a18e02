"""medseg fit: train a bundle, one fold or all."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from medseg.errors import ConfigError

from .consent import consent
from .main import add_common_arguments

SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument("overrides", nargs="*", metavar="key::path=value", help="values of train.json to change")
    parser.add_argument("--fold", default="0", metavar="N|all", help="which fold (default: 0)")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="JSON file stacked on train.json")
    parser.add_argument("--budget", type=parse_duration, default=None, metavar="2h", help="time per fold, such as 20m")
    parser.add_argument("--resume", action="store_true", help="continue where the run stopped")
    parser.add_argument("--init-from", default=None, metavar="BUNDLE", help="start from the weights of another bundle")
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def parse_duration(text: str) -> float:
    """Seconds of `2h`, `20m`, `90s`, `90`.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected such as 2h, 20m or 90s")
    return float(match[1]) * SECONDS[match[2]]


def run(arguments: argparse.Namespace) -> int:
    from medseg.config import parse_overrides

    overrides = parse_overrides(arguments.overrides)
    if arguments.fold != "all" and not arguments.fold.isdigit():
        raise ConfigError(f"--fold is {arguments.fold!r}; expected a number or `all`")
    from medseg.commands.fit import fit_bundle

    results = fit_bundle(
        arguments.bundle,
        fold=arguments.fold if arguments.fold == "all" else int(arguments.fold),
        overrides=overrides,
        files=[Path(file) for file in arguments.config],
        resume=arguments.resume,
        budget_s=arguments.budget,
        init_from=arguments.init_from,
        device=arguments.device,
        trust=consent(arguments),
    )
    if arguments.json:
        print(json.dumps({f"fold_{fold}": metrics for fold, metrics in results.items()}))
    else:
        for fold, metrics in results.items():
            dice = {name: value for name, value in metrics.items() if name.startswith("val_dice")}
            print(f"fold {fold}: " + ", ".join(f"{name} {value:.4f}" for name, value in dice.items()))
        print(_next(arguments.bundle))
    return 0


def _next(bundle: str) -> str:
    """What to do now, and which networks predict."""
    from medseg.bundle.catalogue import find_bundle
    from medseg.layout import Layout
    from medseg.selection.averaging import finished_folds, predicting_folds

    layout = Layout(find_bundle(bundle))
    folds = predicting_folds(layout) or finished_folds(layout)
    predict = f"medseg predict {bundle} --input scans/ --output labels/"
    if len(folds) < 2:
        return f"next: {predict}"
    named = f"folds {', '.join(map(str, folds[:-1]))} and {folds[-1]}"
    return f"next: medseg cv {bundle}, or {predict}: averages {named}; --fold N takes one"
