"""Runs a script of cases under triton's interpreter, which must be switched on before triton's first import.

In that process (`python -m tests.kernels.interpreter SCRIPT`) the interpreter is mended: what it computes stays, but it takes
less time, and masks of version 3.9 work.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_cases(script: Path) -> Any:
    """One process for all cases of a family; gives what its last line of output holds, JSON."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "tests.kernels.interpreter", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def mend() -> None:
    """Make triton's interpreter of this process quicker, and scalar conditions of version 3.9 usable as masks."""
    from triton.runtime import interpreter

    _patch_once(interpreter)
    known, look_up = {}, interpreter._get_np_dtype

    def numpy_type(kind: Any) -> Any:
        found = known.get(kind.name)
        if found is None:
            found = known[kind.name] = look_up(kind)
        return found

    interpreter._get_np_dtype = numpy_type
    builder, splat = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.create_splat

    def create_splat(self: Any, shape: Any, scalar: Any) -> Any:
        made = splat(self, shape, scalar)
        if scalar.data.dtype == bool and made.data.dtype != bool:  # a comparison, taken for an int32
            made.data = made.data.astype(bool)
        return made

    builder.create_splat = create_splat


def _patch_once(interpreter: Any) -> None:
    """Every call of a device function puts the interpreter's functions into triton.language anew, a third of all time; once a
    launch is enough."""
    import triton.language as tl

    patch, patched = interpreter._patch_lang, set()

    class Scope:
        """Takes back what a launch has put in."""

        def __init__(self, inner: Any, names: set[str]) -> None:
            self.inner, self.names = inner, names

        def restore(self) -> None:
            self.inner.restore()
            patched.difference_update(self.names)

    def patch_lang(function: Any) -> Scope:
        modules = {"tl": tl, "core": tl.core}
        values = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        names = {name for name, module in modules.items() if any(value is module for value in values)}
        if names and names <= patched:
            return Scope(interpreter._LangPatchScope(), set())
        scope = Scope(patch(function), names - patched)
        patched.update(names)
        return scope

    interpreter._patch_lang = patch_lang


if __name__ == "__main__":
    mend()
    runpy.run_path(sys.argv[1], run_name="__main__")
