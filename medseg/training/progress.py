"""One progress line with the remaining time, on a terminal or, more quietly, in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from medseg.errors import printable


@contextmanager
def progress_bar(title: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of units done so far."""
    interactive = sys.stderr.isatty()
    bar = tqdm(
        total=total, desc=printable(title), unit=unit, file=sys.stderr, leave=True,
        mininterval=0.2 if interactive else 10.0, delay=0.0 if interactive else 10.0,
        ncols=None if interactive else 100, smoothing=0.1,
    )  # fmt: skip

    def advance(done: int) -> None:
        bar.update(done - bar.n)

    try:
        yield advance
    finally:
        bar.close()
