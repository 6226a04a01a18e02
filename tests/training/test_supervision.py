"""What becomes of torch's words on a loader process that died; real deaths are in tests/reliability/scenarios/workers.py."""

from __future__ import annotations

import pytest

from medseg.errors import DataError, LabelError, ResourceError
from medseg.training.supervision import Watch

NAMES = ["a", "b", "c"]


def noted(pid: int, now: int, last: int) -> Watch:
    watch = Watch(2)
    watch.notes[1, 0], watch.notes[1, 1], watch.notes[1, 2] = pid, now, last
    return watch


def test_a_death_while_reading_names_the_case_and_the_signal() -> None:
    told = noted(7, 1, 1).explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), NAMES)
    assert isinstance(told, ResourceError)
    assert str(told).startswith("case 'b': the loader process is killed by signal: Killed. Often memory ran out")


def test_the_signal_is_taken_from_the_cause_and_an_idle_process_names_its_last_case() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 3. Details are lost")
    told = str(noted(7, -1, 2).explain(error, NAMES))
    assert told.startswith("after case 'c': the loader process exited unexpectedly with exit code 3. Often")
    assert "before its first case" in str(Watch(2).explain(error, NAMES))


def test_an_error_raised_in_a_process_keeps_its_class_and_loses_the_traceback() -> None:
    text = "Caught LabelError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    told = Watch(1).explain(LabelError(text + "medseg.errors.LabelError: case 'a': no label\n"), NAMES)
    assert type(told) is LabelError
    assert str(told) == "case 'a': no label"


@pytest.mark.parametrize("error", [RuntimeError("the loss became nan"), DataError("case 'a': cut")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert Watch(1).explain(error, NAMES) is None
    with Watch(0).reading(5):
        pass
