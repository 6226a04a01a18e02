"""medseg fit: train a bundle, one fold or all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg.errors import BundleError, ConfigError, printable

from .consent import consent
from .duration import parse_duration
from .main import add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument("overrides", nargs="*", metavar="key::path=value", help="values of train.json to change")
    parser.add_argument("--fold", default="0", metavar="N|all", help="which fold (default: 0)")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="JSON file stacked on train.json")
    parser.add_argument("--budget", type=parse_duration, default=None, metavar="2h", help="time per fold, such as 20m")
    parser.add_argument(
        "--keys", action="store_true", help="list every key::path of train.json with its value and meaning, and stop"
    )
    parser.add_argument("--devices", type=_devices, default=None, metavar="N|auto",
                        help="devices of this machine that train together, sharing each batch (default: 1)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue where the run stopped")
    parser.add_argument("--init-from", default=None, metavar="BUNDLE", help="start from the weights of another bundle")
    parser.add_argument("--partial", action="append", default=[], metavar="NAME",
                        help="part of the network, such as head, that may stay as made with --init-from")  # fmt: skip
    parser.add_argument("--synthetic", default=None, metavar="DIR",
                        help="train on the pairs of medseg synthesize too; they never validate")  # fmt: skip
    parser.add_argument(
        "--ratio", type=float, default=None, metavar="R", help="synthetic crops for each real one (default: 1)"
    )
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def _devices(text: str) -> int | str:
    if text != "auto" and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of devices; expected such as 2, or auto")
    return text if text == "auto" else int(text)


def run(arguments: argparse.Namespace) -> int:
    from medseg.config import parse_overrides

    bundles = [word for word in (arguments.bundle, *arguments.overrides) if "=" not in word]
    if "=" in arguments.bundle and len(bundles) == 1:  # a key before the bundle
        arguments.overrides = [word for word in (arguments.bundle, *arguments.overrides) if word != bundles[0]]
        arguments.bundle = bundles[0]
    overrides = parse_overrides(arguments.overrides)
    if arguments.keys:
        return _list_keys(arguments)
    if arguments.fold != "all" and not arguments.fold.isdigit():
        raise ConfigError(f"--fold is {arguments.fold!r}; expected a number or `all`")
    from medseg.commands.fit import fit_bundle
    from medseg.ranks import is_helper

    if arguments.devices is not None:
        overrides |= {_devices_key(arguments): arguments.devices}
    if arguments.ratio is not None and arguments.synthetic is None:
        raise ConfigError("--ratio weighs the pairs of --synthetic DIR, which is missing")
    if arguments.synthetic is not None:
        folder = str(Path(arguments.synthetic).resolve())
        overrides |= {"train::dataset::synthetic_dir": folder}
        overrides |= {"train::dataset::synthetic_ratio": 1.0 if arguments.ratio is None else arguments.ratio}
    results = fit_bundle(
        arguments.bundle,
        fold=arguments.fold if arguments.fold == "all" else int(arguments.fold),
        overrides=overrides,
        files=[Path(file) for file in arguments.config],
        resume=arguments.resume,
        budget_s=arguments.budget,
        init_from=arguments.init_from,
        partial=arguments.partial,
        device=arguments.device,
        trust=consent(arguments),
    )
    if is_helper():
        return 0
    if arguments.json:
        print(json.dumps({f"fold_{fold}": metrics for fold, metrics in results.items()}))
    elif not arguments.quiet:
        for fold, metrics in results.items():
            shown = {name: value for name, value in metrics.items() if name.startswith("val_")}
            print(f"fold {fold}: " + ", ".join(f"{name} {value:.2f}" for name, value in shown.items()))
        print(_next(arguments.bundle))
    return 0


def _devices_key(arguments: argparse.Namespace) -> str:
    """Where train.json keeps the number of devices; bundles of 0.1 have it in the trainer only."""
    from medseg.bundle.catalogue import find_bundle
    from medseg.config import read_json
    from medseg.layout import Layout

    train = Layout(find_bundle(arguments.bundle)).train
    return "train::trainer::devices" if train.is_file() and "devices" not in read_json(train) else "devices"


def _list_keys(arguments: argparse.Namespace) -> int:
    """Print every key that can be overridden, one a line."""
    from medseg.bundle.catalogue import find_bundle
    from medseg.commands.fit_keys import list_keys, shown
    from medseg.config import apply_overrides, parse_overrides, read_config
    from medseg.layout import Layout

    layout = Layout(find_bundle(arguments.bundle))
    if not layout.train.is_file():
        raise BundleError(f"{layout.folder}: has no configs/train.json: it can predict, but not be trained")
    files = [layout.train, *(Path(file) for file in arguments.config)]
    keys = list_keys(apply_overrides(read_config(files), parse_overrides(arguments.overrides), foreign=False))
    if arguments.json:
        print(
            json.dumps(
                [
                    {"key": key.name, "value": json.loads(shown(key.value) or "null"), "meaning": key.meaning}
                    for key in keys
                ]
            )
        )
        return 0
    for key in keys:
        line = f"{key.name}={shown(key.value)}"
        print(printable(f"{line:<56} {key.meaning}".rstrip()))
    return 0


def _next(bundle: str) -> str:
    """What to do now, and which networks predict."""
    from medseg.bundle.catalogue import find_bundle
    from medseg.layout import Layout
    from medseg.selection.averaging import finished_folds, predicting_folds

    layout = Layout(find_bundle(bundle))
    if not any(path.is_file() for path in layout.inference_files):  # a generator
        return f"next: medseg synthesize sample {bundle} --data DIR --count N --output synthetic/"
    folds = predicting_folds(layout) or finished_folds(layout)
    predict = f"medseg predict {bundle} --input scans/ --output labels/"
    if len(folds) < 2:
        return f"next: {predict}"
    named = f"folds {', '.join(map(str, folds[:-1]))} and {folds[-1]}"
    return f"next: medseg cv {bundle}, or {predict}: averages {named}; --fold N takes one"
