"""Progress bars: on a terminal and in a notebook; elsewhere `heartbeat` writes lines into the log.

A notebook's error stream is no terminal, but its page rewrites a line as a terminal does, and shows a widget where
ipywidgets is installed. It is known by the kernel behind IPython's shell; IPython itself is never imported here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medseg.errors import printable
from medseg.heartbeat import step

_quiet: list[bool] = []


def in_notebook() -> bool:
    """Whether an IPython kernel (Jupyter, Colab, an editor's notebook) runs this process."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def no_bars() -> Iterator[None]:
    """No bar is drawn in the block, whatever the stream is."""
    _quiet.append(True)
    try:
        yield
    finally:
        _quiet.pop()


def open_bar(title: str, total: int | None, *, unit: str, first: int = 0) -> Any:
    """A tqdm bar on the error stream, or None where nothing would show it; close it."""
    notebook = in_notebook()
    if _quiet or not (notebook or sys.stderr.isatty()):
        return None
    widgets = notebook and importlib.util.find_spec("ipywidgets") is not None
    kind = importlib.import_module("tqdm.notebook" if widgets else "tqdm").tqdm
    where = {} if widgets else {"file": sys.stderr}
    return kind(total=total, initial=first, desc=printable(title), unit=unit, mininterval=0.2, smoothing=0.1, **where)


@contextmanager
def progress_bar(title: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of units done so far."""
    with step(title, total, f"{unit}s") as counted:
        bar = open_bar(title, total, unit=unit)

        def advance(done: int) -> None:
            counted.advance(done)
            if bar is not None:
                bar.update(done - bar.n)

        try:
            yield advance
        finally:
            if bar is not None:
                bar.close()


@contextmanager
def notebook_bar(unit: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield a function that takes (what is done, units done, units in all), for one bar; None outside of notebooks."""
    bar = open_bar("", None, unit=unit) if in_notebook() else None
    if bar is None:
        yield None
        return

    def show(what: str, done: int, total: int) -> None:
        title = printable(what)
        if total != bar.total or done < bar.n:
            bar.reset(total)
        if bar.desc.removesuffix(": ") != title:
            bar.set_description(title, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.refresh()
        bar.close()
