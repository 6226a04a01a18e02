"""Files that appear whole under their name or not at all.

Everything is written under a temporary name in the same folder (the same file system, so that the rename is atomic),
flushed to the disk, then renamed. After `kill -9` or a full disk the final name holds the old file or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import MedsegError, ResourceError
from medseg.interruption import at_the_end, wait_if_ending
from medseg.types import FilePath

# What SQLite writes beside a database
_DATABASE_ENDS = ("-journal", "-wal", "-shm")
_PREFIX = ".medseg-tmp"
_in_the_making: set[Path] = set()
_TEMPORARY = re.compile(r"^\.medseg-tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}-")


@contextlib.contextmanager
def atomic_path(path: FilePath) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path`, on failure it is removed.

    The temporary name begins with a dot and keeps the suffixes, so writers that look at them work. The folder is made
    when it is missing. With two writers on one name the last rename wins, whole.

    Raises:
        ResourceError: the folder cannot be made or written, the disk is full, or the name is a folder.

    Example:
        >>> with atomic_path("result.txt") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("whole or not at all")
    """
    path = Path(path)
    temporary = temporary_beside(path)
    wait_if_ending()
    _in_the_making.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except MedsegError:
        raise
    except OSError as error:
        raise ResourceError(_cannot_write(path, error)) from error
    except Exception as error:
        if not _is_write_failure(error):
            raise
        raise ResourceError(
            f"{path}: cannot be written: the disk is full or the file size limit is reached "
            f"({' '.join(str(error).split())[:120]}); free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _in_the_making.discard(temporary)


@contextlib.contextmanager
def vanishing(path: FilePath) -> Iterator[Path]:
    """A file or folder that is removed at the end of the block, and when a signal ends the process in it."""
    path = Path(path)
    _in_the_making.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _in_the_making.discard(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
            for end in _DATABASE_ENDS if is_temporary(path) else ():
                path.with_name(path.name + end).unlink(missing_ok=True)


@at_the_end
def _remove_all() -> None:
    for path in list(_in_the_making):
        _remove(path)


def temporary_beside(path: FilePath) -> Path:
    """A fresh temporary name in the folder of `path`, for a file or a folder; `remove_leftovers` knows whose it is."""
    path = Path(path)
    return path.with_name(f"{_PREFIX}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def write_bytes(path: FilePath, content: bytes) -> None:
    """Write bytes atomically. Raises ResourceError naming the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: FilePath, text: str) -> None:
    """Write UTF-8 text with plain line feeds atomically. Raises ResourceError naming the path."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: FilePath, value: object) -> None:
    """Write JSON (indented, final line feed, NaN refused) atomically.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot; nothing is written.
        ResourceError: naming the path.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_leftovers(folder: FilePath) -> list[Path]:
    """Delete temporary files and folders in a folder whose writing process on this machine is dead; returns what they were.

    Call it before writing into an output folder that an earlier, killed run may have used. Files of living processes
    and of other machines (a shared drive) stay.
    """
    removed = []
    for path in Path(folder).glob(f"{_PREFIX}-*"):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == _host() and not _is_alive(int(match["pid"])):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
    return removed


def is_temporary(path: FilePath) -> bool:
    """Whether a file name is one of ours in the making, never to be read as a case."""
    return Path(path).name.startswith(_PREFIX)


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder. A folder that cannot be opened (Windows) or synced (some network drives) is skipped."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except (PermissionError, IsADirectoryError):
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> str:
    cause = error.strerror or str(error)
    remedy = {
        28: "free some space or choose another folder",  # ENOSPC
        27: "the file size limit is reached; raise it or choose another folder",  # EFBIG
        122: "the quota is used up; free some space or choose another folder",  # EDQUOT
    }.get(error.errno or 0, "choose a folder that you may write to")
    return f"{path}: cannot be written: {cause}; {remedy}."


def _is_write_failure(error: Exception) -> bool:
    """Whether a writer of tensors met a full disk: torch and safetensors raise no OSError then."""
    text = str(error)
    by_torch = isinstance(error, RuntimeError) and ("inline_container" in text or "PytorchStreamWriter" in text)
    return by_torch or (type(error).__name__ == "SafetensorError" and "I/O error" in text)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        import psutil  # os.kill(pid, 0) would end the process there

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
