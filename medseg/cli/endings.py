"""The last line of a command that a signal ended: what happened, and the words that go on with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from medseg.interruption import EARLY
from medseg.ranks import is_helper

# What a verb needs to go on instead of starting anew; any other one finds out by itself what is done, or starts again.
GOES_ON = {"fit": "--resume", "pretrain": "--resume", "predict": "--continue"}
# Words that would throw away, or set aside, what was done before the signal.
NOT_AGAIN = {"demo": ("--force",)}


def continuing_words(verb: str, words: Sequence[str]) -> list[str]:
    """The words that go on where a command with these words was ended.

    Example:
        >>> continuing_words("fit", ["fit", "my_bundle", "--budget", "2h"])
        ['fit', 'my_bundle', '--budget', '2h', '--resume']
    """
    kept = [word for word in words if word not in NOT_AGAIN.get(verb, ())]
    more = GOES_ON.get(verb)
    return kept if more is None or more in kept else [*kept, more]


def program() -> list[str]:
    """How medseg was started: the script, or a Python with `-m medseg`."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" or not started.name.startswith("medseg"):
        return [sys.executable, "-m", "medseg"]
    return ["medseg"] if shutil.which("medseg") == str(started) else [str(started)]


def last_line(number: int, verb: str, words: Sequence[str]) -> str:
    """What the command says when a signal ends it; under SLURM an early signal also puts the job back into the queue."""
    command = shlex.join([*program(), *continuing_words(verb, words)])
    if number == signal.SIGINT:
        return f"interrupted (SIGINT); go on with: {command}"
    name = signal.Signals(number).name
    if number not in EARLY or not _job():
        return f"terminated ({name}); go on with: {command}"
    fault = requeue(_job())
    if fault:
        return f"terminated ({name}); job {_job()} could not be requeued ({fault}); go on with: {command}"
    return f"terminated ({name}); job {_job()} is requeued and will go on with: {command}"


def say_last_words(number: int, verb: str, words: Sequence[str], *, as_json: bool) -> None:
    """Print the line on standard error, below whatever a progress bar has left; the first process speaks for all."""
    if is_helper():
        return
    line = last_line(number, verb, words)
    if as_json:
        command = shlex.join([*program(), *continuing_words(verb, words)])
        os.write(1, (json.dumps({"error": line, "continue": command}) + "\n").encode())
    os.write(2, (_fresh_line() + f"medseg: {line}\n").encode("utf-8", errors="replace"))


def _fresh_line() -> str:
    if sys.stderr.isatty():
        return "\r\033[K"
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    return "\n" if len(bars) else ""


def _job() -> str:
    """The SLURM job that this process belongs to, as scontrol names it; empty outside of SLURM."""
    if os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID", "")


def requeue(job: str) -> str:
    """Put a SLURM job back into the queue; returns what went wrong, or nothing."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    return "" if done.returncode == 0 else " ".join((done.stderr or f"scontrol ended with {done.returncode}").split())


def goes_on_by_itself(verb: str) -> bool:
    """Whether SLURM has started this job again, so that fit and predict go on as if they had been told to."""
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0")
    return verb in GOES_ON and bool(os.environ.get("SLURM_JOB_ID")) and restarted.isdigit() and int(restarted) > 0
