"""A stranger's bundle is opened in a child process with limits; this is the parent's side.

The child (`contained_child` for `medseg predict`, `medseg.cli.confined` for whole commands) sends one JSON line per event
(`contained_events`) on its standard output; lines of its error stream pass on to ours, without what commands a terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import medseg
from medseg import errors
from medseg.bundle.load import Trust
from medseg.bundle.made_here import is_ours
from medseg.cases.batch import CaseResult
from medseg.errors import BundleError, ResourceError, printable

from .contained_events import READ

LONGEST_LINE, LONGEST_WORDS = 16 << 20, 1 << 16  # bytes of one event, and of one line for people
GRACE_S = 10.0  # between a request to stop and the end by force
START = "import importlib, sys; sys.path.append(sys.argv.pop(1)); importlib.import_module(sys.argv.pop(1)).main()"


@dataclass(frozen=True)
class Limits:
    """What a stranger's bundle may take; each has a variable, which wins.

    Args:
        seconds: from the start to the first finished case, and from each finished case to the next
            (MEDSEG_FOREIGN_SECONDS, default 3600).
        memory: bytes beyond the libraries (MEDSEG_FOREIGN_MEMORY such as 8GB, default what is free at the start).
        network: leave the network open (MEDSEG_FOREIGN_NETWORK=open, default closed).
    """

    seconds: float = 3600.0
    memory: int | None = None
    network: bool = False

    @classmethod
    def of_user(cls) -> Limits:
        """The limits with what the user's variables say.

        Raises:
            ConfigError: a variable cannot be read.
        """
        seconds, memory = os.environ.get("MEDSEG_FOREIGN_SECONDS"), os.environ.get("MEDSEG_FOREIGN_MEMORY")
        try:
            time_limit = cls.seconds if seconds is None else float(seconds)
            if not time_limit > 0:
                raise ValueError
        except ValueError:
            raise errors.ConfigError(f"MEDSEG_FOREIGN_SECONDS is {seconds!r}; expected seconds above 0") from None
        try:
            bytes_limit = None if memory is None else _bytes(memory)
        except ValueError:
            raise errors.ConfigError(f"MEDSEG_FOREIGN_MEMORY is {memory!r}; expected such as 8GB") from None
        return cls(time_limit, bytes_limit, os.environ.get("MEDSEG_FOREIGN_NETWORK") == "open")


def _bytes(text: str) -> int:
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    number = text.strip().upper().removesuffix("B")
    value = float(number[:-1]) * units[number[-1]] if number[-1:] in units else float(number)
    if not value >= 1:
        raise ValueError
    return int(value)


def needs_child(folder: Path) -> bool:
    """Whether a bundle is opened in a child: neither shipped nor made by this user (MEDSEG_FOREIGN=inside: never)."""
    return os.environ.get("MEDSEG_FOREIGN") != "inside" and not is_ours(folder)


@dataclass
class Watched:
    """A running child and what is known of it."""

    process: subprocess.Popen[bytes]
    limits: Limits
    bundle: Path
    renewals: int  # finished cases that may still move the deadline
    deadline: float = 0.0
    memory: int | None = None
    ended: bool = False
    code: int = 0
    cases: list[CaseResult] = field(default_factory=list)

    def renew(self) -> None:
        self.deadline = time.monotonic() + self.limits.seconds

    def advance(self) -> None:
        """Move the deadline, as often as there can be cases."""
        if self.renewals > 0:
            self.renewals -= 1
            self.renew()

    def check(self) -> None:
        """Raises ResourceError when a limit is passed."""
        if time.monotonic() > self.deadline:
            raise ResourceError(
                f"{self.bundle}: was stopped, it took more than {self.limits.seconds:g} s for its start or a case; "
                "MEDSEG_FOREIGN_SECONDS sets another limit"
            )
        if self.memory is not None and resident(self.process.pid) > self.memory:
            raise ResourceError(
                f"{self.bundle}: was stopped, it took more than {self.memory / 2**30:.1f} GB of memory; "
                "MEDSEG_FOREIGN_MEMORY sets another limit"
            )


def resident(pid: int) -> int:
    """Resident bytes of a process and of all that it started; 0 when it has ended."""
    import psutil

    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def run_contained(
    bundle: Path,
    request: Mapping[str, Any],
    *,
    cases: int,
    trust: Trust,
    progress: Callable[[str, int, int], None] | None,
    finished: Callable[[CaseResult, int, int], None] | None,
    printed: Callable[[str], None] | None = None,
    child: str = "medseg.commands.contained_child",
) -> Watched:
    """Work in a child process; returns what became of it: its cases, or its exit code.

    Args:
        bundle: the folder, for messages.
        request: JSON-ready; what `child` makes of it is its matter.
        cases: how many there can be at most.
        trust: as `load_bundle` takes it; a function is asked here, in the parent.
        progress, finished: see `predict_bundle`.
        printed: takes what the child wants on the standard output.
        child: the module whose `main` runs there.

    Raises:
        MedsegError: of the child's, or ResourceError for a limit that was passed.
        KeyboardInterrupt: the user's; the child has ended.
    """
    limits = Limits.of_user()
    with tempfile.TemporaryDirectory(prefix="medseg-contained-") as scratch, _child(scratch, child) as process:
        watched = Watched(process, limits, bundle, cases)
        watched.renew()
        order = {"request": dict(request), "limits": dataclasses.asdict(limits), "trust": "ask" if callable(trust) else trust,
                 "parent": os.getpid(), "level": _level()}  # fmt: skip
        _send(process, order)
        for event in _events(watched):
            _take(event, watched, trust, progress, finished, printed)
            if watched.ended:
                break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    code = process.returncode
    if not watched.ended:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise BundleError(f"{bundle}: the process that had it open ended early ({how})")
    return watched


def _level() -> int:
    import logging

    return logging.getLogger().getEffectiveLevel()


def _send(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end is told by its exit code
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()


@contextlib.contextmanager
def _child(scratch: str, module: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process; signals of ours pass on to it, and it has ended, with all it started, when the block is left."""
    root = str(Path(medseg.__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START, root, module],  # -P: no module out of the working directory, maybe the bundle
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": scratch},
    )  # fmt: skip
    words = threading.Thread(target=_pass_on, args=(process.stderr,), daemon=True)
    words.start()
    told_to_stop: list[int] = []
    previous = None
    if threading.current_thread() is threading.main_thread():

        def stop(number: int, _frame: object) -> None:
            told_to_stop.append(number)
            process.send_signal(number)

        previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield process
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        raise
    finally:
        _end(process)
        words.join(GRACE_S)
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        if told_to_stop:
            signal.raise_signal(told_to_stop[0])


def _pass_on(stream: Any) -> None:
    """The child's error stream, line by line, onto ours."""
    with contextlib.suppress(OSError, ValueError):
        while line := stream.readline(LONGEST_WORDS):
            sys.stderr.write(printable(line.decode("utf-8", "replace"), lines=True))
            sys.stderr.flush()
        stream.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # the whole session that it leads
        else:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.close()


def _events(watched: Watched) -> Iterator[dict[str, Any]]:
    """The child's events until its output ends; limits are looked at meanwhile."""
    lines: queue.Queue[bytes] = queue.Queue(1000)
    output = watched.process.stdout
    assert output is not None

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := output.readline(LONGEST_LINE):
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    looked, gone = 0.0, False
    while True:
        if time.monotonic() - looked > 0.5:
            watched.check()
            looked = time.monotonic()
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            if gone:
                return  # all it said is read; what it started may hold the pipe open for ever
            gone = watched.process.poll() is not None
            continue
        if not line:
            return
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise BundleError(f"{watched.bundle}: the process that had it open sent what is no event")
        yield event


def _take(
    event: dict[str, Any],
    watched: Watched,
    trust: Trust,
    progress: Callable[[str, int, int], None] | None,
    finished: Callable[[CaseResult, int, int], None] | None,
    printed: Callable[[str], None] | None = None,
) -> None:
    """Act on one event; it is read whole before anything of ours is called."""
    try:
        kind, content = next(iter(event.items()))
        told = READ[kind](content)
    except (LookupError, StopIteration, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BundleError(f"{watched.bundle}: the process that had it open sent what is no event") from error
    if kind == "memory":
        watched.memory = told if watched.memory is None else watched.memory
    elif kind == "ask" and callable(trust):
        trust(told)
        watched.renew()
        _send(watched.process, {"consent": True})
    elif kind == "progress":
        if printed is not None:  # a whole command: its cases are told by nothing else
            watched.advance()
        if progress is not None:
            progress(*told)
    elif kind == "finished":
        watched.cases.append(told[0])
        watched.advance()
        if finished is not None:
            finished(*told)
    elif kind == "print" and printed is not None:
        printed(told)
    elif kind == "end":
        watched.ended, watched.code = True, told
    elif kind == "error":
        raise told
