"""Folders that take a name whole: the old one or the new one stands there at any moment, with the rights of the umask."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from .atomic import flush_to_disk, temporary_beside, vanishing

ASIDE = ".replaced-"  # what stands before the name of a folder that is being replaced, where two cannot be exchanged
_AT_WORKING_DIRECTORY, _EXCHANGE = -100, 2


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` that is gone after the block, or by `remove_leftovers` when the process is killed in it."""
    parent.mkdir(parents=True, exist_ok=True)
    with vanishing(temporary_beside(parent / "folder")) as place:
        place.mkdir()
        yield place


def follow_umask(folder: Path) -> None:
    """Give a folder and all in it the rights that new ones get here, whatever it was copied or unpacked with; no links."""
    with temporary_folder(folder.parent) as probe:
        (probe / "file").touch()
        of_folders, of_files = (stat.S_IMODE(path.stat().st_mode) for path in (probe, probe / "file"))
    os.chmod(folder, of_folders)
    for place, folders, files in os.walk(folder):
        for names, mode in ((folders, of_folders), (files, of_files)):
            for path in (Path(place, name) for name in names):
                if not path.is_symlink():
                    os.chmod(path, mode)


def put_folder(source: Path, target: Path) -> None:
    """Move a finished folder to its name on the same file system, replacing what is there.

    Whoever looks finds the old folder or the new one, also when the process is killed on the way: they are exchanged in one
    step, or, where the system cannot do that, the old one stands under `aside(target)` meanwhile.
    """
    put_back(target)
    if not target.exists():
        os.rename(source, target)
    elif _exchange(source, target):
        shutil.rmtree(source)
    else:
        os.rename(target, aside(target))
        os.rename(source, target)
        shutil.rmtree(aside(target))
    flush_to_disk(target.parent)


def aside(target: Path) -> Path:
    """Where the old folder stands while the new one takes its name."""
    return target.with_name(ASIDE + target.name)


def put_back(target: Path) -> None:
    """After a killed `put_folder`: the old folder gets its name again, or goes where the new one has it."""
    if aside(target).exists():
        if target.exists():
            shutil.rmtree(aside(target))
        else:
            os.rename(aside(target), target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2  # Linux, glibc 2.28 and musl 1.2.4
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return swap(_AT_WORKING_DIRECTORY, names[0], _AT_WORKING_DIRECTORY, names[1], _EXCHANGE) == 0
