"""The command `medseg`: parse words, call one function below, print.

Nothing heavy is imported here: `medseg --help` answers before torch is loaded. Each verb is one file with
`add_arguments(parser)` and `run(arguments) -> int`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from medseg import __version__
from medseg.bars import no_bars
from medseg.errors import MedsegError
from medseg.heartbeat import lines_in_the_log
from medseg.interruption import EXIT_INTERRUPTED, Ended, end_now, exit_code, finished_with, listening
from medseg.ranks import is_helper

from .confined import run_confined, stranger_of
from .endings import GOES_ON, goes_on_by_itself, say_last_words
from .screen import log_to_screen, safe_screen
from .words import EXIT_USAGE as EXIT_USAGE
from .words import Parser, UsageError, at_least_one, parse_words

# verb -> what it does; the file medseg/cli/VERB.py holds its options.
VERBS = {
    "plan": "turn a folder of labelled volumes into a bundle, saying why each value was chosen",
    "fit": "train a bundle, one fold or all",
    "pretrain": "learn from images without labels",
    "adapt": "begin with another model's weights on new data",
    "cv": "compare bundles and folds, choose an ensemble and post-processing",
    "predict": "segment volumes with a bundle",
    "evaluate": "score label maps against references",
    "compare": "say whether one system is better than another on the same cases",
    "probe": "show how far a token mixer looks, along each axis and in each direction",
    "stress": "show what breaks a model: Dice under shifts of growing strength",
    "synthesize": "make images with label maps that no scanner took, for training",
    "view": "look at a volume and its label map in a browser",
    "bundle": "verify, export, pack, install, import or register a bundle",
    "split": "train one network at sites that have different images of the same patients",
    "federate": "train one network at several sites that keep their images",
    "cluster": "predict a cohort with a job array, and see how far it is",
    "networks": "list the network presets with their size and cost",
    "demo": "run the whole path on a small dataset made on the spot",
    "doctor": "say what this machine has and what will run on it",
}

EXIT_OK, EXIT_NOTHING_DONE, EXIT_SOME_FAILED = 0, 1, 3


def add_common_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options that mean the same everywhere: any of device, threads, json, quiet, trust."""
    texts = {
        "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:N or mps (default: auto)"},
        "threads": {"type": at_least_one, "default": None, "metavar": "N", "help": "CPU threads (default: all cores)"},
        "json": {"action": "store_true", "help": "print one JSON object instead of text"},
        "quiet": {"action": "store_true", "help": "no progress, only warnings and errors"},
        "trust": {"action": "store_true", "help": "let a bundle run code that is not on the allow-list"},
    }
    for name in names:
        parser.add_argument(f"--{name}", **texts[name])  # type: ignore[arg-type]


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser with the options of one verb, or of all of them when `verb` is None."""
    parser = Parser(prog="medseg", description=importlib.import_module("medseg").__doc__)
    parser.add_argument("--version", action="version", version=f"medseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, text in VERBS.items():
        child = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if verb is None or verb == name:
            importlib.import_module(f"medseg.cli.{name}").add_arguments(child)
    return parser


def parse(words: Sequence[str], verb: str) -> argparse.Namespace:
    """The options of a whole command line; see `parse_words`."""
    return parse_words(build_parser(verb), words)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 ok, 1 nothing done, 2 usage, 3 some cases failed, 130 interrupted (SIGINT), 143 terminated (SIGTERM, SIGUSR1, SIGUSR2).
    """
    with safe_screen():
        return _main(list(sys.argv[1:] if words is None else words), is_program=words is None)


def _main(words: list[str], *, is_program: bool) -> int:
    verb = next((word for word in words if word in VERBS), "")
    last_words = partial(say_last_words, verb=verb, words=words, as_json="--json" in words)
    with listening(last_words, is_program=is_program):
        try:
            return finished_with(_run(words, verb))
        except Ended as ended:
            end_now(ended.number)
            return exit_code(ended.number)
        except KeyboardInterrupt:  # from a caller's own thread or handler; the listener above takes the signal itself
            last_words(signal.SIGINT)
            return EXIT_INTERRUPTED


def _run(words: list[str], verb: str) -> int:
    try:
        if not words:
            build_parser("").print_help()
            return EXIT_OK
        arguments = parse(words, verb)
    except SystemExit as stop:
        return int(stop.code or 0)
    level = logging.WARNING if getattr(arguments, "quiet", False) else logging.INFO
    log_to_screen(level)
    if getattr(arguments, "threads", None):
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if goes_on_by_itself(verb) and not arguments.resume:
        arguments.resume = True
        logging.getLogger(__name__).info("SLURM has started this job again: going on, as with %s", GOES_ON[verb])
    try:
        stranger = stranger_of(arguments)
        if stranger is not None:
            return run_confined(words, stranger, arguments)  # its child tells how far it is
        quiet = getattr(arguments, "quiet", False) or getattr(arguments, "json", False)
        with _progress(arguments.verb), no_bars() if quiet else nullcontext():
            return int(importlib.import_module(f"medseg.cli.{arguments.verb}").run(arguments))
    except MedsegError as error:
        if os.environ.get("MEDSEG_DEBUG"):
            traceback.print_exc()
        code = _refuse(str(error), as_json=getattr(arguments, "json", False))
        return EXIT_USAGE if isinstance(error, UsageError) else code
    except OSError as error:
        if os.environ.get("MEDSEG_DEBUG"):
            traceback.print_exc()
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            named = f"{error.filename}: is a file where a folder is needed; choose another with --output"
        return _refuse(named, as_json=getattr(arguments, "json", False))


def _progress(verb: str) -> AbstractContextManager[None]:
    """Lines in the log where there is no terminal; one process of several speaks."""
    if sys.stderr.isatty() or is_helper():
        return nullcontext()
    return lines_in_the_log(verb)


def _refuse(message: str, *, as_json: bool) -> int:
    line = " ".join(message.split())
    if as_json:
        print(json.dumps({"error": line}))
    print(f"medseg: {line}", file=sys.stderr)
    return EXIT_NOTHING_DONE


if __name__ == "__main__":
    sys.exit(main())
