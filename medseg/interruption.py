"""How a command ends when a signal asks it to: SIGINT, SIGTERM, and SIGUSR1 or SIGUSR2, which announce the end of a job's time.

A thread waits for signals, since the main thread may be inside a long computation or an import, where an exception would do
harm. Outside of `deferred` the process ends at once: every file is written under a temporary name, so that nothing can be left
half; the temporary ones are removed. Inside, training ends its step and saves first, and is cut off when that takes too long.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

EARLY = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, signal.SIGTERM, *EARLY)
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
# Seconds that a step and its checkpoint may take: `docker stop` kills after 10, SLURM 30 after SIGTERM, and later after an
# early signal; somebody at a keyboard can press again.
GRACE_S = {signal.SIGINT: 60.0, signal.SIGTERM: 8.0, **dict.fromkeys(EARLY, 110.0)}


# What is unfinished is removed so often, so many seconds apart, while the main thread does not hear: inside a long computation
# it writes nothing either, and on a busy machine it may not have had its turn.
PASSES, PASS_S = 5, 0.3


class Ended(BaseException):
    """A signal ended the work at a point where it can go on.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(number: int) -> int:
    """130 for SIGINT, 143 for the others."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED


class Listener:
    """Waits for the signals of one command.

    Args:
        last_words: called with the signal's number when the process is about to end; says how to go on.
        is_program: the process ends with the command: a signal that comes after it changes nothing any more.
    """

    def __init__(self, last_words: Callable[[int], None], *, is_program: bool = False) -> None:
        self.last_words = last_words
        self.is_program = is_program
        self.code = 0
        self.received: int | None = None
        self.waits = False
        self.complete = self._cleaning = False
        self._held = threading.Event()
        self._ending = threading.Lock()
        self._read, self._write = socket.socketpair()  # Windows cannot wait for a pipe
        self._write.setblocking(False)

    def start(self) -> None:
        """Take the signals over; only the main thread can."""
        # first the pipe: a signal that found only the handler would be lost
        self._fd_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._noted) for number in SIGNALS}
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def stop(self) -> None:
        """Hand the signals back; with a signal that is being answered, wait for the end."""
        self._claim_the_end()
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, self._leave if self.is_program else handler)
        with contextlib.suppress(OSError):
            self._write.send(b"\0")
        self._write.close()

    def _noted(self, _: int, __: FrameType | None) -> None:
        """In the main thread: the number went through the pipe already; once the process is ending, nothing more is done here."""
        if self._cleaning:
            self._held.set()
            threading.Event().wait()

    def _leave(self, _: int, __: FrameType | None) -> None:
        """All is done, and what comes is Python's own end: it need not be waited for."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(self.code)

    def take_back(self) -> None:
        """Take the signals over again, after a library has put its own handlers in their place."""
        for number in SIGNALS:
            signal.signal(number, self._noted)

    def forget_in_child(self) -> None:
        """In a forked process: its signals are its own; Ctrl-C is the parent's to answer."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)

    def _watch(self) -> None:
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read], [], [], left)
            if not ready:
                assert self.received is not None
                self.end(self.received)
            number = (self._read.recv(1) or b"\0")[0]
            if number == 0:
                self._read.close()
                return
            if number not in SIGNALS or self.complete:
                continue
            again = self.received is not None and number == signal.SIGINT
            self.received = number if self.received is None else self.received
            if again or not self.waits:
                self.end(self.received)
            latest = time.monotonic() + GRACE_S[signal.Signals(number)]
            deadline = latest if deadline is None else min(deadline, latest)

    def _claim_the_end(self) -> None:
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is on its way out

    def run_to_the_end(self) -> None:
        """From here on signals are too late; one that is being answered already ends the process first."""
        self._claim_the_end()
        self.complete = True
        self._ending.release()

    def wait_if_ending(self) -> None:
        """Keep this thread from beginning anything new once the process is on its way out."""
        if self._cleaning:
            threading.Event().wait()

    def end(self, number: int) -> None:
        """Say the last words and leave, whatever the other threads do."""
        self._claim_the_end()
        if self.complete:
            self._ending.release()
            return
        self._hold_main_thread(number)
        _within(0.5, sys.stdout.flush)
        _within(25.0, lambda: self.last_words(number))
        _within(8.0, lambda: _clean_up(self._held))
        os._exit(exit_code(number))

    def _hold_main_thread(self, number: int) -> None:
        """Keep it from writing on into folders that are being removed, and from saying anything after the last words."""
        self._cleaning = True
        main = threading.main_thread()
        if threading.current_thread() is main:
            self._held.set()
        elif hasattr(signal, "pthread_kill") and signal.getsignal(number) == self._noted and main.ident is not None:
            signal.pthread_kill(main.ident, number)
            self._held.wait(PASS_S)


_listener: Listener | None = None
_cleaning: list[Callable[[], Any]] = []


def _within(seconds: float, action: Callable[[], Any]) -> None:
    """Do something that might block for ever (a full pipe, a lock that the main thread holds) for so long at most."""

    def act() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)


def run_to_the_end() -> None:
    """The result is about to take its place: from here on a signal is too late, since the same command would now refuse."""
    if _listener is not None:
        _listener.run_to_the_end()


def finished_with(code: int) -> int:
    """Note the exit code that the command has come to; returns it."""
    if _listener is not None:
        _listener.code = code
    return code


def wait_if_ending() -> None:
    """To be called before something is begun that `at_the_end` would have to undo."""
    if _listener is not None:
        _listener.wait_if_ending()


def end_now(number: int) -> None:
    """End the command that listens, as the signal would have at once; returns where nobody listens."""
    if _listener is not None:
        _listener.end(number)


def at_the_end(action: Callable[[], Any]) -> Callable[[], Any]:
    """Have something done before a signal ends the process, such as removing temporary files; also a decorator."""
    _cleaning.append(action)
    return action


def _clean_up(held: threading.Event) -> None:
    """End what this process has started and remove what it has not finished.

    Args:
        held: set once the main thread does nothing more; before, things are removed again, since it may be making new ones.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for _ in range(PASSES):
        is_last = held.wait(PASS_S)
        for action in _cleaning:
            with contextlib.suppress(Exception):
                action()
        if is_last:
            break


@contextlib.contextmanager
def listening(last_words: Callable[[int], None], *, is_program: bool = False) -> Iterator[None]:
    """End the process in good order when a signal comes in this block; nothing changes outside of the main thread.

    The arguments are those of `Listener`.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener = Listener(last_words, is_program=is_program)
    _listener.start()
    try:
        yield
    finally:
        listener, _listener = _listener, None
        listener.stop()


def _after_fork() -> None:
    global _listener
    if _listener is not None:
        listener, _listener = _listener, None
        listener.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Deferral:
    """Signals that wait until the work is at a point where it can go on."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._noted: int | None = None

    @property
    def received(self) -> int | None:
        """The signal that asked for the end, or None."""
        return self._listener.received if self._listener is not None else self._noted

    def take_back(self) -> None:
        """To be called once a library has put its own handlers in place of ours."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self._listener is not None:
            self._listener.take_back()
        else:
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = self._noted or number


@contextlib.contextmanager
def deferred() -> Iterator[Deferral]:
    """Let signals wait in this block.

    The block looks at `received` and raises `Ended` where it can go on; reaching the end of the block with a signal
    received raises it as well. Without a listening command (a notebook, MONAI's own commands) it becomes KeyboardInterrupt,
    or SystemExit with the exit code.
    """
    listener = _listener
    deferral = Deferral(listener)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    waited = listener is not None and listener.waits
    if listener is not None:
        listener.waits = True
    elif main:
        deferral.take_back()
    try:
        yield deferral
        if deferral.received is not None:
            raise Ended(deferral.received)
    except Ended as ended:
        if listener is not None:
            raise
        if ended.number == signal.SIGINT:
            raise KeyboardInterrupt from ended
        raise SystemExit(exit_code(ended.number)) from ended
    finally:
        if listener is None:
            for number, handler in before.items():
                signal.signal(number, handler)
        elif listener.received is None:
            listener.waits = waited
