"""Workers of a cohort as processes of this machine, each watched by the one that started it: a crash is one case's alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from medseg.cases.batch import CaseResult
from medseg.cases.cohort import Died, Worker
from medseg.io import Case

from .cohort_worker import CaseWorker, Order, of_answer


class ProcessWorker:
    """A process that predicts one case after the other."""

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, order), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, case: Case, ahead: Case | None) -> None:
        with contextlib.suppress(OSError):  # it is gone, which is told when it is waited for
            self.pipe.send((case, ahead))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class ProcessPool:
    """`size` processes."""

    def __init__(self, order: Order, size: int = 1) -> None:
        self.order, self.size = order, size
        self._started: list[ProcessWorker] = []

    def start(self) -> ProcessWorker:
        worker = ProcessWorker(self.order)
        self._started.append(worker)
        return worker

    def wait(self, workers: Sequence[Worker], timeout_s: float) -> list[tuple[Worker, CaseResult | Died]]:
        mine = {worker.pipe: worker for worker in workers if isinstance(worker, ProcessWorker)}
        said: list[tuple[Worker, CaseResult | Died]] = []
        for pipe in wait(list(mine), timeout_s):
            assert isinstance(pipe, Connection)
            worker = mine[pipe]
            try:
                said.append((worker, of_answer(pipe.recv())))
            except (EOFError, OSError):
                worker.process.join(10)
                said.append((worker, Died(_how_it_ended(worker.process.exitcode))))
        return said

    def close(self) -> None:
        for worker in self._started:
            if worker.process.is_alive():
                worker.end()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; often memory ran out"
    return f"its process ended with exit code {code}"


def _work(pipe: Any, order: Order) -> None:
    """In the process: a case comes, a result goes, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    worker = CaseWorker(order)
    while True:
        try:
            case, ahead = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(worker.run(case, ahead))
