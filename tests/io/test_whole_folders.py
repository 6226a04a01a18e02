"""A folder takes a name whole, wherever the process is killed, and gets the rights that the umask gives."""

from __future__ import annotations

import os
import signal
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medseg.io import whole_folders
from medseg.io.atomic import remove_leftovers
from medseg.io.whole_folders import follow_umask, put_folder, temporary_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
CHANGES = ("os.", "shutil.", "open", "ctypes.")


def killed_after(steps: int, work: Callable[[], None]) -> bool:
    """Run in a child that kills itself at the given change of the file system; whether it came to its end instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test's process
        pid = os.fork()
    if pid == 0:
        left = iter(range(steps))

        def count(event: str, _: object) -> None:
            if event.startswith(CHANGES) and event != "os.kill" and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def make(folder: Path, content: str) -> Path:
    (folder / "configs").mkdir(parents=True)
    for name in ("a", "configs/b"):
        (folder / name).write_text(content)
    return folder


def content(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_anywhere_the_old_or_the_new_is_there(
    exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(whole_folders, "_exchange", lambda first, second: False)
    target = make(tmp_path / "bundle", "old")

    def work() -> None:
        with temporary_folder(tmp_path) as place:
            put_folder(make(place / "new", "new"), target)

    seen = set()
    for steps in range(1000):
        ended = killed_after(steps, work)
        found = content(target) if target.exists() else content(whole_folders.aside(target))
        assert found in ({"old"}, {"new"}), steps
        seen |= found
        if ended:
            break
        if found == {"new"}:
            make(tmp_path / "again", "old")
            put_folder(tmp_path / "again", target)
    assert seen == {"old", "new"}
    assert steps > 8
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert content(target) == {"new"}


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "of_folder", "of_file"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)]
)
def test_rights_follow_the_umask(
    mask: int, of_folder: int, of_file: int, tmp_path: Path, umask: Callable[[int], object]
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o400)
    folder = make(tmp_path / "copied", "x")
    (folder / "link").symlink_to(outside)
    for path in (folder / "a", folder / "configs" / "b", folder / "configs", folder):
        path.chmod(0o500)
    umask(mask)
    follow_umask(folder)
    modes = {
        path: stat.S_IMODE(path.lstat().st_mode)
        for path in (folder, folder / "configs", folder / "a", folder / "configs" / "b")
    }
    assert list(modes.values()) == [of_folder, of_folder, of_file, of_file]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o400
