"""The processes of a job end with the command that started them, even where that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

JOB = """
import subprocess, sys, time
from pathlib import Path
from medseg.collaboration.lifeline import end_with_parent
end_with_parent(int(sys.argv[2]))
site = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).write_text(str(site.pid))
time.sleep(600)
"""
COMMAND = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", {JOB!r}, sys.argv[1], str(os.getpid())], start_new_session=True).wait()
"""


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="sessions of processes are POSIX")
def test_a_killed_command_leaves_no_process_of_its_job(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(told)])
    end = time.monotonic() + 60
    while not (told.is_file() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    site = psutil.Process(int(told.read_text()))
    job = site.parent()
    assert job is not None
    os.kill(command.pid, signal.SIGKILL)
    command.wait(10)
    gone, alive = psutil.wait_procs([job, site], timeout=20)
    for process in alive:
        process.kill()
    assert len(gone) == 2
