"""`python -m medseg_kernels.compat [--installed=replace|keep] SCRIPT ARGS` or `... -m MODULE ARGS`: run it with medseg's operators.

No argparse: every word after the script is the script's.
"""

from __future__ import annotations

import os
import runpy
import sys

from .activation import CHOICES, ForeignPackageError, activate

USAGE = "usage: python -m medseg_kernels.compat [--installed=replace|keep] SCRIPT [ARGS] | -m MODULE [ARGS]"


def main(words: list[str]) -> int:
    """Run a script or module; returns 2 for words that cannot be meant, else what the script ends with."""
    installed = "ask"
    if words and words[0].startswith("--installed"):
        installed = words[0].partition("=")[2]
        words = words[1:]
    module = bool(words) and words[0] == "-m"
    rest = words[1:] if module else words
    if installed not in CHOICES or not rest or rest[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    if not module and not os.path.isfile(rest[0]):
        print(f"no such script: {rest[0]}", file=sys.stderr)
        return 2
    try:
        activate(installed)  # type: ignore[arg-type]
    except ForeignPackageError as error:
        print(error, file=sys.stderr)
        return 1
    sys.argv = rest
    if module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(rest[0])))
        runpy.run_path(rest[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
