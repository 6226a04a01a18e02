"""Run many command lines of medseg quickly and faithfully: one process that imports, and a fork of it per command.

Each fork has its own standard streams, exit code, time and peak memory, as a process of its own would, without paying for
the imports again. Used by the corpus tests; needs an operating system with fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

PRELOAD_LIGHT = (
    "medseg.cli.main",
    "medseg.cli.predict",
    "medseg.cli.evaluate",
    "medseg.cases.batch",
    "medseg.io.formats.dicom_seg",
    "pydicom",
    "scipy.ndimage",
    "medseg.evaluation.report.sections",
)
PRELOAD_TORCH = (*PRELOAD_LIGHT, "torch", "medseg.cli.plan", "medseg.cli.fit")


@dataclass(frozen=True)
class Ran:
    """What one command did.

    Attributes:
        code: its exit code; negative for a signal.
        out, err: its streams.
        seconds: processor time from fork to end; wall time would measure what else the machine does.
        growth_mb: peak memory over the importing process's.
        modules: which of torch and monai it had imported at its end.
    """

    code: int
    out: str
    err: str
    seconds: float
    growth_mb: float
    modules: list[str]


def run_commands(
    commands: Sequence[Sequence[str]], *, preload: Sequence[str] = PRELOAD_LIGHT, timeout_s: float = 60
) -> list[Ran]:
    """Run command lines (without the word medseg) one after the other; returns their results in order."""
    request = json.dumps(
        {"commands": [list(words) for words in commands], "preload": list(preload), "timeout_s": timeout_s}
    )
    result = subprocess.run(
        [sys.executable, "-m", "tests.reliability.commands"], input=request, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return [Ran(**entry) for entry in json.loads(result.stdout)]


def _serve() -> None:
    import importlib

    request = json.load(sys.stdin)
    for name in request["preload"]:
        importlib.import_module(name)
    idle = _peak_mb()
    print(json.dumps([_forked(words, idle, request["timeout_s"]) for words in request["commands"]]))


def _forked(words: list[str], idle_mb: float, timeout_s: float) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as facts:
        child = os.fork()
        if child == 0:
            _child(words, out.fileno(), err.fileno(), facts.fileno(), timeout_s)
        _, status, usage = os.wait4(child, 0)
        texts = []
        for file in (out, err, facts):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": texts[0],
        "err": texts[1],
        "seconds": usage.ru_utime + usage.ru_stime,
        "growth_mb": float((texts[2].split() or ["nan"])[0]) - idle_mb,
        "modules": texts[2].split()[1:],
    }


def _child(words: list[str], out: int, err: int, facts: int, timeout_s: float) -> None:
    import signal

    from medseg.cli.main import main

    code = 70
    try:
        signal.alarm(int(timeout_s))
        os.dup2(out, 1)
        os.dup2(err, 2)
        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        heavy = [name for name in ("torch", "monai") if name in sys.modules]
        os.write(facts, " ".join([str(_peak_mb()), *heavy]).encode())
        os._exit(code)


def _peak_mb() -> float:
    """High-water mark of this process's memory; getrusage would hand down the parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    _serve()
