"""A job's processes end with the command that started them, however that ended: it may have been killed outright."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

LOOK_S = 0.5


def end_with_parent(parent: int) -> None:
    """Watch the parent process, and end this process with all of its session when the parent is gone.

    Args:
        parent: its number, from itself: it may be gone before this process asks.

    Without it, a command that is interrupted leaves sites that go on training, and a second one would train beside them. For
    a process that leads a session of its own; elsewhere, and on Windows, nothing is watched.
    """
    if not hasattr(os, "getsid") or os.getsid(0) != os.getpid():
        return
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(0, signal.SIGKILL)
