"""`--trust` on the command line: show what will run, ask, and take only a typed yes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from medseg.errors import UntrustedBundleError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from medseg.bundle.opening.listing import Shown

VARIABLE = (
    "MEDSEG_TRUST_SHA256"  # where nobody can be asked: the SHA-256 of all files, from a listing that somebody read
)


def consent(arguments: argparse.Namespace) -> Literal[False] | Callable[[Shown], None]:
    """What `load_bundle` takes as `trust`: False without the option, else the question."""
    return ask if arguments.trust else False


def ask(shown: Shown) -> None:
    """Show the listing on the error stream and ask for a yes.

    Raises:
        UntrustedBundleError: nobody can be asked, or the answer was not yes.
    """
    if os.environ.get(VARIABLE) == shown.digest:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UntrustedBundleError(
            f"{shown.folder}: --trust asks on a terminal, and this is none; answer once there, or, after reading the "
            f"bundle, set {VARIABLE}={shown.digest}"
        )
    _print("\n".join(shown.lines))
    _print("Run these files? Type yes: ", end="")
    if sys.stdin.readline().strip().lower() != "yes":
        raise UntrustedBundleError(f"{shown.folder}: not trusted, nothing was run")


def _print(text: str, **more: Any) -> None:
    print(text, file=sys.stderr, flush=True, **more)
