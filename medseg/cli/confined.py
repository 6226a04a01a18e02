"""Commands that build the network of a stranger's bundle run whole in a child process with limits, as `predict` does inside.

The child (`confined_child`) parses the same words, prints through its parent, and lets it ask the question of `--trust`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import MedsegError, printable

if TYPE_CHECKING:
    import argparse

CONFINED = {("cv", None), ("bundle", "verify"), ("bundle", "export")}
STEPS = 1_000_000  # signs of life that may move the time limit
# In the child: where progress goes instead of the screen.
tell_progress: Callable[[str, int, int, str], None] | None = None


def stranger_of(arguments: argparse.Namespace) -> Path | None:
    """The first bundle of the command that is neither shipped nor made here, where such a command is confined."""
    if (arguments.verb, getattr(arguments, "action", None)) not in CONFINED:
        return None
    from medseg.bundle.catalogue import find_bundle
    from medseg.commands.contained import needs_child

    for name in [arguments.bundle] if isinstance(arguments.bundle, str) else arguments.bundle:
        try:
            folder = find_bundle(name)
        except MedsegError:
            return None  # the command itself says what is wrong
        if needs_child(folder):
            return folder
    return None


def run_confined(words: list[str], folder: Path, arguments: argparse.Namespace) -> int:
    """The command in a child process; returns its exit code.

    Raises:
        MedsegError: a limit was passed, or the child ended early.
    """
    from medseg.commands.contained import run_contained

    from .consent import consent

    quiet = getattr(arguments, "quiet", False) or getattr(arguments, "json", False) or not sys.stderr.isatty()
    trust = consent(arguments) if hasattr(arguments, "trust") else False
    request = {
        "verb": arguments.verb,
        "words": words,
        "device": getattr(arguments, "device", "cpu"),
        "bundle": str(folder),
    }
    done = run_contained(
        folder, request, cases=STEPS, trust=trust, progress=None if quiet else _show, finished=None,
        printed=_print, child="medseg.cli.confined_child",
    )  # fmt: skip
    return done.code


def _show(what: str, done: int, total: int) -> None:
    end = "" if done < total else "\r\033[K"
    print(f"\r\033[K{printable(what):.60}: {done} of {total}{end}", end="", file=sys.stderr, flush=True)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
