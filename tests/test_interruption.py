"""A signal ends a command whatever its main thread does, and changes nothing once the command is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WRITES = """
import sys, time
from medseg.interruption import listening
from medseg.io.whole_folders import temporary_folder
from pathlib import Path

def last_words(number):
    sys.stderr.write("last words\\n")

with listening(last_words), temporary_folder(Path(sys.argv[1])) as place:
    number = 0
    while True:
        (place / f"{number}").mkdir(parents=True, exist_ok=True)
        (place / f"{number}" / "file").write_text("x")
        number += 1
        if number == 50:
            print("writing", flush=True)
"""
ENDS = """
import sys, time
from medseg.interruption import finished_with, listening

with listening(lambda number: sys.stderr.write("last words"), is_program=True):
    finished_with(3)
print("done", flush=True)
time.sleep(60)
"""


def started(script: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_a_folder_that_is_being_written_is_gone_after_the_last_words(tmp_path: Path) -> None:
    """The main thread goes on writing while the folder is removed, unless it is held."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process = started(WRITES, str(tmp_path))
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else 143)
        assert err == "last words\n"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX signals")
def test_a_signal_after_the_command_is_done_leaves_its_exit_code() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process = started(ENDS)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        begin = time.monotonic()
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=50)
        assert (process.returncode, err) == (3, "")
        assert time.monotonic() - begin < 30  # what is left of the program is not waited for
