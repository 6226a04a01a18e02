"""The batch file of docs/cluster.md, run by a shell with SLURM's variables faked: a fold per task, then cv; requeued jobs go on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


def run(tmp_path: Path, **variables: str) -> list[str]:
    """The words that the batch file gives to medseg."""
    script = tmp_path / "folds.sbatch"
    script.write_text(re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.S)[0])
    recorder = tmp_path / "recorder"
    recorder.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    recorder.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {**kept, "MEDSEG": str(recorder), "BUNDLE": "my bundle", **variables}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_each_task_of_the_array_trains_its_fold_and_the_job_after_them_compares(tmp_path: Path) -> None:
    for task in ("0", "3"):
        words = run(tmp_path, SLURM_ARRAY_TASK_ID=task, SLURM_JOB_ID="8", SLURM_NTASKS="1")
        assert words == ["fit", "my bundle", "--fold", task, "--quiet"]
    assert run(tmp_path, SLURM_JOB_ID="9") == ["cv", "my bundle", "--quiet"]


def test_the_options_that_requeue_and_signal_are_asked_for(tmp_path: Path) -> None:
    text = PAGE.read_text()
    for option in ("--array=0-4", "--requeue", "--signal=B:USR1@180", "--ntasks=1"):
        assert f"#SBATCH {option}\n" in text
    assert text.count("exec $MEDSEG") == 2  # without exec the shell would get the signal, and wait
