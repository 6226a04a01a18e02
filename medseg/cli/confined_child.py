"""The child's side of `confined`: the same command, behind limits, with its words sent to the parent."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial

from medseg.commands.contained_child import begin, limit_memory, report

from . import confined, consent
from . import main as main_module


class Told:
    """Where our own commands print; what a bundle prints goes to the error stream, as all of fd 1 does here.

    Args:
        tell: sends an event.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        self._tell(print=text)
        return len(text)

    def flush(self) -> None: ...


def main() -> None:
    """One command; its exit code is told to the parent."""
    channel, order = begin()
    request = order["request"]

    def progress(what: str, done: int, total: int, case: str) -> None:
        channel.tell(progress=[f"{what} {case}", done, total])

    def work() -> int:
        channel.tell(memory=limit_memory(request["device"], order["limits"]["memory"]))
        os.environ["MEDSEG_FOREIGN"] = "inside"
        consent.ask = channel.ask
        confined.tell_progress = progress
        for module in (main_module, importlib.import_module(f"medseg.cli.{request['verb']}")):
            vars(module)["print"] = partial(print, file=Told(channel.tell))
        return main_module.main(request["words"])

    report(work, channel, str(request["bundle"]))
