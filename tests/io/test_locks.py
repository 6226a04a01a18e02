"""Locks between processes: one at a time in a place; a claim names who is there and ends with its process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medseg.errors import ResourceError
from medseg.io import locks
from medseg.io.locks import alone_in, claimed, is_held

HOLD = """
import sys, time
from pathlib import Path
from medseg.io.locks import claimed
with claimed(Path(sys.argv[1]), "fold 0", "wait"):
    print("here", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_with_host_and_process_until_the_first_is_dead(tmp_path: Path) -> None:
    claim = tmp_path / "runs" / ".fold_0.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(claim)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "here\n"
    assert is_held(claim)
    words = rf"fold 0 is being trained by process {holder.pid} on .+; wait"
    with pytest.raises(ResourceError, match=words), claimed(claim, "fold 0", "wait"):
        pytest.fail("two were let in")
    holder.kill()  # leaves its note behind
    holder.wait()
    assert json.loads(claim.read_text())["pid"] == holder.pid
    with claimed(claim, "fold 0", "wait"), claimed(claim, "fold 0", "wait"):  # nested in one process
        assert is_held(claim)
    assert not is_held(claim)
    assert claim.read_text() == ""


@pytest.mark.parametrize("alive", [True, False])
def test_a_claim_of_another_machine_lives_as_long_as_it_beats(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network drive that hands no locks on, which a lock of this machine cannot tell."""
    monkeypatch.setattr(locks, "SILENT_S", 0.4)
    claim = tmp_path / ".fold_0.lock"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "today"}))
    stop = threading.Event()
    monkeypatch.setattr(locks, "BEAT_S", 0.05 if alive else 60.0)
    beating = threading.Thread(target=locks._beat, args=(claim, stop))
    beating.start()
    try:
        if alive:
            with pytest.raises(ResourceError, match="process 7 on elsewhere"), claimed(claim, "fold 0", "wait"):
                pytest.fail("two were let in")
        else:
            with claimed(claim, "fold 0", "wait"):
                assert json.loads(claim.read_text())["host"] != "elsewhere"
    finally:
        stop.set()
        beating.join() if alive else None


def test_one_at_a_time_in_a_place(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with alone_in(tmp_path / "new" / "lock"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_a_drive_without_locks_stops_nobody_and_still_tells_a_living_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(self: object, *_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    with alone_in(tmp_path / "lock"):
        assert not is_held(tmp_path / "lock")
    claim = tmp_path / ".fold_0.lock"
    with claimed(claim, "fold 0", "wait"):
        holder = json.loads(claim.read_text())
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    claim.write_text(json.dumps(holder | {"pid": other.pid}))
    with pytest.raises(ResourceError, match=f"process {other.pid}"), claimed(claim, "fold 0", "wait"):
        pytest.fail("two were let in")
    other.kill()
    other.wait()
    with claimed(claim, "fold 0", "wait"):
        pass
