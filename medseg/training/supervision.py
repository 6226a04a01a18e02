"""Which case each loader process is at, so that a process that dies takes no secret with it.

A process that was killed (memory ran out) or that crashed cannot say anything any more. It notes the case in memory that it
shares with the training process before it reads it; when torch reports the death, the note becomes the error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from medseg.errors import MedsegError, ResourceError

_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<what>.*)", re.DOTALL)
_IDLE = -1


class Watch:
    """A note per loader process: its process id, the case it reads now, the case it read last.

    Args:
        workers: loader processes; 0 is allowed and notes nothing.
    """

    def __init__(self, workers: int) -> None:
        self.notes = torch.full((workers, 3), _IDLE, dtype=torch.int64).share_memory_()

    @contextmanager
    def reading(self, case: int) -> Iterator[None]:
        """Note that this process reads case number `case`; outside a loader process nothing is noted."""
        info = get_worker_info()
        if info is None or info.id >= len(self.notes):
            yield
            return
        note = self.notes[info.id]
        note[0], note[1], note[2] = os.getpid(), case, case
        yield
        note[1] = _IDLE

    def explain(self, error: BaseException, names: Sequence[str]) -> MedsegError | None:
        """What an error of training says about a loader process, or None when it says nothing of one.

        Args:
            error: raised by Lightning's `fit`.
            names: of the cases, in the order of their numbers.

        Returns:
            A `ResourceError` naming the case of a process that died, or the error that a process raised, without the
            traceback that torch puts around its text.
        """
        text = _text(error)
        if isinstance(error, MedsegError):
            return _raised_in_worker(error) if text.startswith("Caught ") else None
        match = _death(error)
        if match is None:
            return None
        dead = [int(pid) for pid in match["pids"].replace(",", " ").split()]
        told = [self._note_of(pid, names) for pid in dead]
        return ResourceError(
            f"{'; '.join(told)}: the loader process {' '.join(match['what'].split(' Details')[0].split()).rstrip('. ')}. "
            "Often memory ran out: take fewer of them with num_workers=N (0 reads in the training process), then continue "
            "with --resume."
        )

    def _note_of(self, pid: int, names: Sequence[str]) -> str:
        for noted, now, last in self.notes.tolist():
            if noted == pid and now != _IDLE:
                return f"case {names[now]!r}"
            if noted == pid:
                return f"after case {names[last]!r}"
        return "before its first case"


def _death(error: BaseException | None) -> re.Match[str] | None:
    """torch's most telling sentence on a death: the signal or exit code often stands one cause further down."""
    found = None
    while error is not None:
        match = _DEATH.match(_text(error))
        if match is not None and (found is None or "signal" in match["what"] or "code" in match["what"]):
            found = match
        error = error.__cause__ or error.__context__
    return found


def _raised_in_worker(error: MedsegError) -> MedsegError:
    """The same error with its own sentence only: torch replaces it by the process's whole traceback."""
    starts = list(re.finditer(rf"^[\w.]*{type(error).__name__}: ", _text(error), re.MULTILINE))
    return type(error)(_text(error)[starts[-1].end() :].strip()) if starts else error


def _text(error: BaseException) -> str:
    """What an error was made with; the text of one of ours shows line ends as escapes."""
    return str(error.args[0]) if isinstance(error, MedsegError) and error.args else str(error)
