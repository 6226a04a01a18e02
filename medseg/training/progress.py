"""One progress line with the remaining time, on a terminal; in a log every 20 seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from medseg.errors import printable
from medseg.heartbeat import step


@contextmanager
def progress_bar(title: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of units done so far."""
    with step(title, total, f"{unit}s") as counted:
        if not sys.stderr.isatty():
            yield counted.advance
            return
        bar = tqdm(total=total, desc=printable(title), unit=unit, file=sys.stderr, mininterval=0.2, smoothing=0.1)

        def advance(done: int) -> None:
            counted.advance(done)
            bar.update(done - bar.n)

        try:
            yield advance
        finally:
            bar.close()
