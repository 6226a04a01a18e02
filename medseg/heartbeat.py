"""What is being done now, and how far it is: a line in the log every 20 seconds, of whatever step of whatever verb.

Who works opens a step and counts; who watches (the command line, where there is no terminal) asks for a line now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

EVERY_S = 20.0


@dataclass
class Step:
    """One step of the work.

    Args:
        title: what is done.
        total: units in all, None where they cannot be counted.
        unit: what is counted, in the plural.
    """

    title: str
    total: int | None = None
    unit: str = "steps"
    done: int = 0
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    first: int = 0

    def advance(self, done: int) -> None:
        """Take the number of units done so far."""
        self.done = done

    def line(self) -> str:
        """How far the step is.

        Example:
            >>> Step("measuring", 10, "cases", began=time.monotonic() - 60, done=4).line()
            'measuring: 4 of 10 cases, about 90 s left'
        """
        spent = time.monotonic() - self.began
        if self.total is None:
            return f"{self.title}: {spent:.0f} s so far"
        fresh = self.done - self.first
        left = f"about {spent / fresh * (self.total - self.done):.0f} s left" if fresh > 0 else f"{spent:.0f} s so far"
        return f"{self.title}: {self.done} of {self.total} {self.unit}, {left}" + (
            f", {self.note}" if self.note else ""
        )


_open: list[Step] = []


@contextmanager
def step(title: str, total: int | None = None, unit: str = "steps") -> Iterator[Step]:
    """Open a step; the innermost open one is told of. One without a title waits for somebody, of which nothing is told."""
    one = Step(title, total, unit)
    _open.append(one)
    try:
        yield one
    finally:
        _open.remove(one)


@contextmanager
def lines_in_the_log(verb: str, every: float = EVERY_S) -> Iterator[None]:
    """Log a line of the innermost open step every so many seconds while the block runs."""
    ended = threading.Event()
    whole = Step(verb)

    def watch() -> None:
        while not ended.wait(every):
            innermost = (_open[-1:] or [whole])[0]
            if innermost.title:
                log.info("%s", innermost.line())

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
