"""medseg split: train one network at sites that have different images of the same patients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, printable

from .main import EXIT_OK, add_common_arguments
from .screen import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))

    plan = actions.add_parser("plan", help="a bundle with an encoder per site and the decoder where the labels are")
    plan.add_argument("--data", type=Path, required=True, metavar="DIR", help="one folder per patient, or a data set")
    plan.add_argument("--sites", required=True, metavar="NAME=CHANNEL,...", help="such as ct=CT,mr=MR_T1,pet=PET")
    plan.add_argument("--label-site", required=True, metavar="NAME", help="the site with the labels")
    plan.add_argument("--output", type=Path, required=True, metavar="BUNDLE")
    plan.add_argument("--preset", metavar="NAME", help="of all encoders and the decoder (default: mambavision)")
    plan.add_argument("--size", metavar="NAME", help="size of the preset (default: nano)")
    plan.add_argument("--folds", type=int, default=5, help="folds of the shared patients (default: 5)")
    plan.add_argument(
        "--finest", type=int, default=None, metavar="LEVEL", help="finest level sent (default: 2; 1 by option)"
    )
    plan.add_argument("--finest-of", action="append", default=[], metavar="SITE=LEVEL", help="of one site, also 0")
    plan.add_argument("--wire", default="float32", metavar="TYPE", help="float32 or float16 (default: float32)")
    plan.add_argument("--dropout", type=float, default=0.0, help="before anything leaves, also at prediction")
    plan.add_argument("--clip", type=float, default=None, metavar="NORM", help="largest norm of what one item sends")
    plan.add_argument("--noise", type=float, default=0.0, metavar="X", help="Gaussian, in units of --clip")
    plan.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="of the shared grid (default: the label site's images')"
    )
    plan.add_argument("--cases", type=Path, metavar="FILE", help="names of the patients, one a line")
    plan.add_argument("--allow-missing", action="store_true", help="zeros for a missing image of a patient")
    plan.add_argument("--overwrite", action="store_true", help="set the bundle in --output aside and plan anew")
    add_common_arguments(plan, "json", "quiet")

    shared = actions.add_parser("intersect", help="the patients that all sites have, by private set intersection")
    shared.add_argument("--sites", nargs="+", required=True, metavar="NAME=DIR", help="each site's folder of patients")
    shared.add_argument("--output", type=Path, required=True, metavar="FILE", help="names, for --cases of plan")
    shared.add_argument("--poc", action="store_true", help="real processes with certificates")
    add_common_arguments(shared, "json", "quiet")

    run = actions.add_parser("run", help="train with all sites on this machine; goes on where it was ended")
    _add_job(run)
    run.add_argument("--keep-every", type=int, default=1, metavar="N", help="steps between two states (default: 1)")
    run.add_argument("--timeout", type=float, default=600.0, metavar="S", help="of a site's answer (default: 600)")
    run.add_argument("--overwrite", action="store_true", help="forget another training, of other patients or settings")
    predict = actions.add_parser("predict", help="segment patients across the sites, without joining")
    _add_job(predict, fold=None)
    predict.add_argument(
        "--cases", type=Path, metavar="FILE", help="patients, one a line (default: the fold's validation)"
    )
    predict.add_argument("--output", type=Path, required=True, metavar="DIR")
    for each in (run, predict):
        each.add_argument("--poc", action="store_true", help="real processes with certificates")
        each.add_argument("--one-process", action="store_true", help="all sites in this process, without nvflare")

    leakage = actions.add_parser("leakage", help="attack every site's features, with all halves on this machine")
    leakage.add_argument("bundle", metavar="BUNDLE")
    leakage.add_argument(
        "--fold", type=int, default=None, help="whose unseen patients are rebuilt (default: the trained one)"
    )
    leakage.add_argument("--steps", type=int, default=200, help="of training the attack (default: 200)")
    leakage.add_argument("--seeds", type=int, default=3, help="repetitions of the attack (default: 3)")
    leakage.add_argument(
        "--output", type=Path, metavar="FILE", help="page (default: report.html beside collaboration.json)"
    )
    add_common_arguments(leakage, "json", "quiet")

    join = actions.add_parser("join", help="one whole bundle of the halves; this discloses the encoders")
    join.add_argument("bundle", metavar="BUNDLE")
    join.add_argument("--halves", type=Path, metavar="DIR", help="a folder per site (default: the bundle's own)")
    add_common_arguments(join, "json", "quiet")
    export = actions.add_parser("export", help="write the NVFlare job for provisioned sites")
    _add_job(export)
    export.add_argument("--output", type=Path, required=True, metavar="JOB")


def _add_job(parser: argparse.ArgumentParser, fold: int | None = 0) -> None:
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("overrides", nargs="*", metavar="key::path=value", help="changes of train.json, as for fit")
    told = (
        "whose training patients (default: 0)" if fold == 0 else "whose validation patients (default: the trained one)"
    )
    parser.add_argument("--fold", type=int, default=fold, help=told)
    add_common_arguments(parser, "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to one function per action; returns the exit code."""
    actions = {"plan": _plan, "run": _run, "predict": _predict, "join": _join, "export": _export, "leakage": _leakage}
    actions["intersect"] = _intersect
    return int(actions[arguments.action](arguments))


def channels_of(text: str) -> dict[str, list[str]]:
    """site -> channels; a site that is named twice brings several.

    Example:
        >>> channels_of("ct=CT,mr=T1,mr=T2")
        {'ct': ['CT'], 'mr': ['T1', 'T2']}
    """
    found: dict[str, list[str]] = {}
    for word in text.split(","):
        name, separator, channel = word.strip().partition("=")
        if not separator or not name or not channel:
            raise ConfigError(f"--sites {text!r}: {word.strip()!r} is no NAME=CHANNEL, such as ct=CT,mr=MR_T1")
        found.setdefault(name, []).append(channel)
    return found


def _names_in(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ConfigError(f"{path}: names no patient; write one a line")
    return names


def _levels_of(words: list[str]) -> dict[str, int]:
    found = {}
    for word in words:
        name, separator, level = word.partition("=")
        if not separator or not level.isdigit():
            raise ConfigError(f"--finest-of {word!r}: expected SITE=LEVEL, such as mr=0")
        found[name] = int(level)
    return found


def _plan(arguments: argparse.Namespace) -> int:
    from medseg.collaboration.cut import Defence
    from medseg.commands.split_plan import WantedSplit, plan_split

    if arguments.folds < 2:
        raise ConfigError(f"--folds is {arguments.folds}; expected at least 2")
    wanted = WantedSplit(
        arguments.preset, arguments.size, arguments.finest, _levels_of(arguments.finest_of), arguments.folds, arguments.wire,
        Defence(arguments.dropout, arguments.clip, arguments.noise), _names_in(arguments.cases), arguments.allow_missing,
        arguments.overwrite, arguments.spacing,
    )  # fmt: skip
    plan = plan_split(arguments.data, channels_of(arguments.sites), arguments.label_site, arguments.output, wanted)
    text = f"bundle {arguments.output}: {printable(plan.reasons['sites'])}\nnext: medseg split run {arguments.output}"
    say(arguments, plan.to_dict(), text)
    return EXIT_OK


def _intersect(arguments: argparse.Namespace) -> int:
    from medseg.commands.split_intersect import shared_patients

    from .federate import sources_of

    names = shared_patients(sources_of(arguments.sites), arguments.output, poc=arguments.poc)
    text = f"{len(names)} patients in common, in {arguments.output}. Next: medseg split plan --cases {arguments.output}"
    say(arguments, {"cases": names}, text)
    return EXIT_OK


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    from medseg.config import parse_overrides

    return dict(parse_overrides(arguments.overrides))


def _run(arguments: argparse.Namespace) -> int:
    from medseg.commands.split import run_split

    losses = run_split(
        arguments.bundle, _overrides(arguments), fold=arguments.fold, poc=arguments.poc, here=arguments.one_process,
        timeout_s=arguments.timeout, keep_every=arguments.keep_every, overwrite=arguments.overwrite,
    )  # fmt: skip
    text = (
        f"{len(losses)} steps, last loss {losses[-1]:.4f}; each site has its half. Next: medseg split predict, or join"
    )
    say(arguments, {"losses": losses}, text)
    return EXIT_OK


def _predict(arguments: argparse.Namespace) -> int:
    from medseg.commands.split import predict_split

    files = predict_split(
        arguments.bundle, arguments.output, _names_in(arguments.cases), fold=arguments.fold, poc=arguments.poc,
        here=arguments.one_process,
    )  # fmt: skip
    say(arguments, {"files": [str(path) for path in files]}, f"{len(files)} label maps in {arguments.output}")
    return EXIT_OK


def _leakage(arguments: argparse.Namespace) -> int:
    from medseg.collaboration.leakage import HEADER, Attack
    from medseg.commands.split import split_record
    from medseg.commands.split_leakage import measure_leakage
    from medseg.evaluation.digits import text_table

    if min(arguments.steps, arguments.seeds) < 1:
        raise ConfigError(f"--steps is {arguments.steps} and --seeds {arguments.seeds}; expected at least 1 of each")
    layout, _ = split_record(arguments.bundle)
    page = arguments.output or layout.leakage_report
    leaks = measure_leakage(arguments.bundle, Attack(arguments.steps, arguments.seeds), page, fold=arguments.fold)
    rows = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in leak.row()] for leak in leaks]
    say(arguments, {"rows": [leak.row() for leak in leaks]}, f"{text_table(HEADER, rows)}\n{page}")
    return EXIT_OK


def _join(arguments: argparse.Namespace) -> int:
    from medseg.commands.split import join_split

    weights = join_split(arguments.bundle, arguments.halves)
    text = f"{weights}: the encoders of all sites; whoever has this file can try to rebuild images from features"
    say(arguments, {"weights": str(weights)}, text)
    return EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from medseg.commands.split import export_split

    job = export_split(arguments.bundle, arguments.output, _overrides(arguments), fold=arguments.fold)
    say(arguments, {"job": str(job)}, f"{job}: submit it with NVFlare; the label site runs the server")
    return EXIT_OK
