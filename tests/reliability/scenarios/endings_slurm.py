"""SLURM's early signal during `medseg fit`: it saves, asks for the job to be requeued, and the job that starts again goes on.

The variables are those of a job of two tasks, and `scontrol` is a script that notes what it was asked for. The second start
has the very words of the first, as a batch file has, and one restart more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .base import Child, Outcome, listens, make_data, make_planned
from .endings import LENGTHS, weights_and_curve

SENT = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def job(tools: Path, restarts: int) -> Callable[[], None]:
    """For `Child`: the variables of a job that was started again so often."""
    variables = {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_RESTART_COUNT": str(restarts), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return lambda: os.environ.update(variables)


def make_scontrol(folder: Path) -> Path:
    """A folder with a `scontrol` that notes its words in `asked` beside it; returns the folder."""
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    script.chmod(0o755)
    return folder


def run(times: int, seed: int, folder: Path) -> Outcome:
    outcome, source = Outcome(), random.Random(seed)
    pristine = make_planned(folder / "pristine", make_data(folder / "data"))
    tools = make_scontrol(folder / "tools")
    whole, bundle = folder / "whole", folder / "trial"
    shutil.copytree(pristine, whole / "bundle")
    words = ["fit", str(whole / "bundle"), *LENGTHS, "train::trainer::tracking=false"]
    undisturbed = Child(words, folder / "log", job(tools, 0)).wait()
    assert undisturbed.code == 0, undisturbed.text
    expected = weights_and_curve(whole)
    for trial in range(times):
        number = SENT[trial % len(SENT)]
        shutil.rmtree(bundle, ignore_errors=True)
        (tools / "asked").unlink(missing_ok=True)
        shutil.copytree(pristine, bundle / "bundle")
        words[1] = str(bundle / "bundle")
        child = Child(words, folder / "log", job(tools, 0))
        while child.running() and not listens(child.pid):
            time.sleep(0.001)
        time.sleep(source.uniform(0, 0.9 * undisturbed.seconds))
        if child.running():
            os.kill(child.pid, number)
        child.wait(60)
        label = f"trial {trial}, {number.name}"
        asked = (tools / "asked").read_text() if (tools / "asked").exists() else ""
        if child.code == 0:
            outcome.count("ended before the signal")
            continue
        early = number != signal.SIGTERM
        outcome.count("jobs ended early" if early else "jobs terminated")
        outcome.count("jobs requeued", asked == "requeue 77\n")
        outcome.expect(child.code == 143, f"{label}: exit code {child.code}: {child.text[-600:]}")
        outcome.expect(asked == ("requeue 77\n" if early else ""), f"{label}: scontrol was asked for {asked!r}")
        said = "job 77 is requeued and will go on with: " if early else "terminated (SIGTERM); go on with: "
        outcome.expect(child.text.count(said) == 1, f"{label}: {child.text[-600:]}")
        again = Child(words, folder / "log", job(tools, 1)).wait()
        outcome.expect(
            again.code == 0, f"{label}: the job that started again ended with {again.code}: {again.text[-600:]}"
        )
        outcome.expect(weights_and_curve(bundle) == expected, f"{label}: other weights or curves than undisturbed")
    return outcome
