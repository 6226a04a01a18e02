"""Locks between processes: one at a time in a place, and a claim that tells a second start who is there.

The system's own file locks, which end with their process however it ends. They hold between the processes of one machine, and
between machines where the network drive hands them on; a claim also beats like a heart, for drives that do not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from medseg.config import read_json
from medseg.errors import ResourceError

log = logging.getLogger(__name__)
BEAT_S = 10.0
# A claim of another machine that has not beaten for this long is a dead one's.
SILENT_S = 3 * BEAT_S
# Loader processes of a killed training inherit its lock, and notice its death within this time.
ORPHANS_S = 15.0
_claims: dict[Path, int] = {}
_alone = threading.local()  # of this thread: the lock files that it holds


@contextlib.contextmanager
def alone_in(path: Path, *, waiting: str = "") -> Iterator[None]:
    """Hold the lock file `path` in this block; others wait. Where files cannot be locked, nobody waits.

    Blocks of one thread may be nested.

    Args:
        path: of the lock file, which stays; its folder is made.
        waiting: what to log when somebody else holds it.
    """
    held: set[Path] = _alone.__dict__.setdefault("held", set())
    place = path.absolute()
    lock = None if place in held else _lock(path)
    if lock is None:
        yield
        return
    with _held(lock, waiting):
        held.add(place)
        try:
            yield
        finally:
            held.discard(place)


@contextlib.contextmanager
def _held(lock: BaseFileLock, waiting: str) -> Iterator[None]:
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                log.info("%s", waiting)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # a file system without locks
        log.debug("%s: cannot be locked: %s", lock.lock_file, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file; False where files cannot be locked."""
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _lock(path: Path) -> BaseFileLock | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # whoever writes there will say so
        return None
    return FileLock(path, thread_local=False)


@contextlib.contextmanager
def claimed(path: Path, what: str, remedy: str, *, doing: str = "trained", keep: bool = True) -> Iterator[None]:
    """Work in a place as the only process; a second start is refused with the host and process that is there.

    Claims may be nested within one process.

    Args:
        path: of the claim's file; it stays, empty.
        what: `fold 0 of liver_ct`, begins the sentence.
        remedy: what the second one may do.
        doing: what the first one does with it, as in `is being trained by`.
        keep: whether the claim's file stays; where it goes, it goes before the claim is given back.

    Raises:
        ResourceError: another process holds the claim.
    """
    path = path.absolute()
    if _claims.get(path):
        _claims[path] += 1
        try:
            yield
        finally:
            _claims[path] -= 1
        return
    lock = _lock(path)
    what = f"{what} is being {doing}"
    with contextlib.ExitStack() as stack:
        if lock is not None:
            stack.enter_context(_taken(lock, path, what, remedy))
        stop = threading.Event()
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        _note(path, holder)
        threading.Thread(target=_beat, args=(path, stop), daemon=True).start()
        _claims[path] = 1
        try:
            yield
        finally:
            del _claims[path]
            stop.set()
            if keep:
                _note(path, None)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


@contextlib.contextmanager
def _taken(lock: BaseFileLock, path: Path, what: str, remedy: str) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if _may_be_orphaned(_holder(path)):
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=ORPHANS_S)
        if not lock.is_locked:
            raise _refusal(_holder(path), what, remedy) from None
    except (OSError, NotImplementedError) as error:
        log.debug("%s: cannot be locked: %s", path, error)
        _refuse_living(path, what, remedy, locks=False)
        yield
        return
    try:
        _refuse_living(path, what, remedy, locks=True)
        yield
    finally:
        lock.release()


def _may_be_orphaned(holder: dict[str, Any]) -> bool:
    return holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid"))


def _refuse_living(path: Path, what: str, remedy: str, *, locks: bool) -> None:
    """Refuse where the last holder lives although the lock could be had: on a drive that does not hand locks on."""
    holder = _holder(path)
    if not holder:
        return
    if holder.get("host") == socket.gethostname():
        if locks or not _is_alive(holder.get("pid")):
            return  # a machine's own locks do not lie: it was killed
        raise _refusal(holder, what, remedy)
    log.info("%s: last by %s; looking for %.0f s whether it still is", what, _named(holder), SILENT_S)
    before = _beats(path)
    end = time.monotonic() + SILENT_S
    while time.monotonic() < end:
        time.sleep(min(1.0, SILENT_S / 10))
        if _beats(path) != before:
            raise _refusal(holder, what, remedy)


def _refusal(holder: dict[str, Any], what: str, remedy: str) -> ResourceError:
    return ResourceError(f"{what} by {_named(holder)}; {remedy}")


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"


def _holder(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _note(path: Path, holder: dict[str, Any] | None) -> None:
    with contextlib.suppress(OSError):  # in place: another file under the name would be another lock
        path.write_text("" if holder is None else json.dumps(holder), encoding="utf-8")


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _beats(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_alive(pid: object) -> bool:
    import psutil

    return isinstance(pid, int) and bool(psutil.pid_exists(pid))
