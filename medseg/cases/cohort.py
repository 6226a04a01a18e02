"""A cohort: many cases over several workers. A worker that dies or hangs is replaced, and a case has two tries.

The workers themselves are somebody else's: processes of this machine, or actors of Ray. Each is given one case at a time, so
that a death is one case's alone: no other is blamed for it, or lost with it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from medseg.errors import ResourceError, printable
from medseg.io import Case

from .batch import CaseResult

log = logging.getLogger(__name__)
TRIES = 2
# Workers in a row that may die before one has finished anything: then it is not the cases' fault.
DEATHS_AT_START = 5


@dataclass(frozen=True)
class Died:
    """A worker is gone; what is known of how."""

    reason: str


class Worker(Protocol):
    """One process that has the model; it has at most one case."""

    def give(self, case: Case, ahead: Case | None) -> None:
        """Let it predict a case."""

    def end(self) -> None:
        """End it now, whatever it does."""


class Pool(Protocol):
    """Where workers come from."""

    size: int

    def start(self) -> Worker:
        """A new worker; it may still be loading the model."""

    def wait(self, workers: Sequence[Worker], timeout_s: float) -> list[tuple[Worker, CaseResult | Died]]:
        """What the busy workers have to say, once one of them has, or the time is over.

        Raises:
            MedsegError: a worker says that the model cannot be loaded.
        """

    def close(self) -> None:
        """End all workers."""


@dataclass
class _Busy:
    case: Case
    number: int
    since: float


@dataclass
class Cohort:
    """The state of a run.

    Args:
        pool: where workers come from.
        limit_s: seconds that a case may take; the first of a worker has as much again for loading the model.
        tries: how often a case is given out.
        started: called with the cases that run now.
    """

    pool: Pool
    limit_s: float = 3600.0
    tries: int = TRIES
    started: Callable[[list[str]], None] | None = None
    _busy: dict[Any, _Busy] = field(default_factory=dict)
    _idle: list[Any] = field(default_factory=list)
    _fresh: set[Any] = field(default_factory=set)  # have not finished a case
    _next: dict[Any, Case] = field(default_factory=dict)  # what a worker is reading ahead
    _deaths: int = 0
    _any_finished: bool = False

    def run(self, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """Each case's result as it comes, in no order; each exactly once.

        Raises:
            ResourceError: no worker lives long enough to finish anything.
            MedsegError: the model cannot be loaded.
        """
        waiting: deque[tuple[Case, int]] = deque((case, 1) for case in cases)
        try:
            while waiting or self._busy or self._next:
                self._give_out(waiting)
                for worker, said in self._said():
                    busy = self._busy.pop(worker)
                    if isinstance(said, Died):
                        self._count(said)
                        self._fresh.discard(worker)
                        if worker in self._next:
                            waiting.appendleft((self._next.pop(worker), 1))
                        said = CaseResult(busy.case.name, "failed", error=f"{busy.case.images[0]}: {said.reason}")
                    else:
                        self._any_finished = True
                        self._fresh.discard(worker)
                        self._idle.append(worker)
                    if said.status == "failed" and busy.number < self.tries:
                        log.info("%s", printable(f"case {busy.case.name}: {said.error}; it is tried again"))
                        waiting.append((busy.case, busy.number + 1))
                        continue
                    tried = f" (tried {busy.number} times)" if said.status == "failed" and busy.number > 1 else ""
                    yield replace(said, error=f"{said.error}{tried}") if tried else said
        finally:
            self.pool.close()

    def _give_out(self, waiting: deque[tuple[Case, int]]) -> None:
        given = False
        while (waiting or self._next.keys() & set(self._idle)) and len(self._busy) < self.pool.size:
            worker = self._idle.pop() if self._idle else self._new()
            case, number = (self._next.pop(worker), 1) if worker in self._next else waiting.popleft()
            # a second try reads nothing ahead: what killed the first may have been the other case
            ahead = None
            if number == 1 and len(waiting) >= self.pool.size and waiting[0][1] == 1:
                ahead = self._next[worker] = waiting.popleft()[0]
            worker.give(case, ahead)
            self._busy[worker] = _Busy(case, number, time.monotonic())
            given = True
        if given and self.started is not None:
            self.started([busy.case.name for busy in self._busy.values()])

    def _new(self) -> Worker:
        worker = self.pool.start()
        self._fresh.add(worker)
        return worker

    def _said(self) -> list[tuple[Any, CaseResult | Died]]:
        now = time.monotonic()
        limits = {worker: busy.since + self._limit_of(worker) for worker, busy in self._busy.items()}
        late = [worker for worker, limit in limits.items() if limit <= now]
        for worker in late:
            worker.end()
        if late:
            return [
                (worker, Died(f"took more than {self.limit_s:g} s; --case-limit sets another limit")) for worker in late
            ]
        return self.pool.wait(list(self._busy), max(0.05, min(5.0, min(limits.values()) - now)))

    def _limit_of(self, worker: object) -> float:
        return self.limit_s * (2 if worker in self._fresh else 1)

    def _count(self, death: Died) -> None:
        self._deaths += 1
        if not self._any_finished and self._deaths >= DEATHS_AT_START * self.pool.size:
            raise ResourceError(
                f"{self._deaths} workers ended before one of them had finished a case, the last one so: {death.reason}; predict "
                "one case without --workers and --part to see why"
            )
