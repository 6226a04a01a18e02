"""medseg federate: train one network at several sites that keep their images."""

from __future__ import annotations

import argparse
from pathlib import Path

from medseg.errors import ConfigError, printable

from .main import EXIT_OK, add_common_arguments
from .screen import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))

    plan = actions.add_parser("plan", help="one plan from the fingerprints of all sites")
    plan.add_argument("--sites", nargs="+", default=[], metavar="[NAME=]DIR", help="data folders, or fingerprint files")
    plan.add_argument("--describe", type=Path, metavar="DIR", help="write this site's fingerprint to --output instead")
    plan.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder (or file) to write")
    plan.add_argument("--preset", metavar="NAME", help="network, see `medseg networks` (default: mambavision)")
    plan.add_argument("--size", metavar="NAME", help="size of the preset (default: nano)")
    plan.add_argument("--folds", type=int, default=5, help="folds of each site (default: 5)")
    plan.add_argument("--dims", choices=["auto", "2", "3"], default="auto", help="2D or 3D network")
    plan.add_argument("--overwrite", action="store_true", help="set the bundle in --output aside and plan anew")
    add_common_arguments(plan, "device", "json", "quiet")

    run = actions.add_parser("run", help="train at all sites of this machine: NVFlare's simulator, or --poc")
    _add_training(run)
    run.add_argument("--poc", action="store_true", help="real processes with certificates")
    add_common_arguments(run, "json", "quiet")

    export = actions.add_parser("export", help="write the NVFlare job for provisioned sites")
    _add_training(export)
    export.add_argument("--output", type=Path, required=True, metavar="JOB", help="folder to write")
    add_common_arguments(export, "json", "quiet")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("overrides", nargs="*", metavar="key::path=value", help="changes of train.json, as for fit")
    parser.add_argument("--rounds", type=int, required=True, metavar="N", help="the epochs are divided among them")
    parser.add_argument("--algorithm", default="fedavg", metavar="NAME", help="fedavg or fedprox (default: fedavg)")
    parser.add_argument("--mu", type=float, default=0.01, metavar="X", help="strength of fedprox (default: 0.01)")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to one function per action; returns the exit code."""
    return int({"plan": _plan, "run": _run, "export": _export}[arguments.action](arguments))


def _plan(arguments: argparse.Namespace) -> int:
    from medseg.commands.federate import Wanted, describe_site, plan_federation

    if arguments.describe is not None:
        message = describe_site(arguments.describe, arguments.output, folds=arguments.folds)
        say(
            arguments, message, f"{arguments.output}: {message['fingerprint']['cases']} cases; look at it, then send it"
        )
        return EXIT_OK
    if arguments.folds < 2:
        raise ConfigError(f"--folds is {arguments.folds}; expected at least 2")
    dims = None if arguments.dims == "auto" else int(arguments.dims)
    wanted = Wanted(arguments.preset, arguments.size, arguments.folds, dims, arguments.device, arguments.overwrite)
    plan = plan_federation(sources_of(arguments.sites), arguments.output, wanted)
    text = f"bundle {arguments.output}: {printable(plan.reasons['sites'])}\nnext: medseg federate run {arguments.output} --rounds 5"
    say(arguments, plan.to_dict(), text)
    return EXIT_OK


def sources_of(words: list[str]) -> dict[str, Path]:
    """site -> folder or file, of words `NAME=DIR`, or `DIR` for `site-1`, `site-2` and so on.

    Example:
        >>> sources_of(["a=/x", "/y"])
        {'a': PosixPath('/x'), 'site-2': PosixPath('/y')}
    """
    found: dict[str, Path] = {}
    for number, word in enumerate(words, 1):
        name, separator, path = word.partition("=")
        name, path = (name, path) if separator and "/" not in name else (f"site-{number}", word)
        if name in found:
            raise ConfigError(f"two sites are named {name!r}; each claims the same role, give them names of their own")
        found[name] = Path(path)
    return found


def _training(arguments: argparse.Namespace, *, poc: bool = False) -> object:
    from medseg.commands.federate import Training
    from medseg.config import parse_overrides

    overrides = parse_overrides(arguments.overrides)
    return Training(arguments.rounds, arguments.algorithm, arguments.mu, overrides, poc)


def _run(arguments: argparse.Namespace) -> int:
    from medseg.commands.federate import run_federation

    weights = run_federation(arguments.bundle, _training(arguments, poc=arguments.poc))  # type: ignore[arg-type]
    say(arguments, {"weights": str(weights)}, f"{weights}: averaged over {arguments.rounds} rounds")
    return EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from medseg.commands.federate import export_federation

    job = export_federation(arguments.bundle, _training(arguments), arguments.output)  # type: ignore[arg-type]
    say(arguments, {"job": str(job)}, f"{job}: submit it with NVFlare; each site needs its folder of runs/sites")
    return EXIT_OK
