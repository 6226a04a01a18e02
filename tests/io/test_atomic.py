"""Whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medseg.errors import ResourceError
from medseg.io.atomic import (
    atomic_path,
    is_temporary,
    remove_leftovers,
    temporary_beside,
    vanishing,
    write_bytes,
    write_json,
    write_text,
)

pytestmark = pytest.mark.requirement("R7")


def test_the_name_appears_whole_and_keeps_its_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "a.nii.gz") as temporary:
        assert temporary.name.endswith("a.nii.gz")
        assert is_temporary(temporary)
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "new" / "a.nii.gz").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nii.gz"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"dice": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_folder_in_place_of_the_file_or_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="folder: cannot be written"):
        write_text(tmp_path / "folder", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot be written: .*choose a folder"):
        write_text(tmp_path / "file" / "below.txt", "x")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit makes the kernel fail the write as a full disk does, in the middle of the file."""
    script = f"""
import resource, signal
from medseg.io.atomic import write_bytes
from medseg.errors import ResourceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes({str(tmp_path / "a.bin")!r}, bytes(5000))
except ResourceError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "a.bin: cannot be written: File too large" in result.stdout
    assert not list(tmp_path.iterdir())


def test_two_writers_give_one_whole_winner(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 200_000 for letter in b"ab"]
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "a", contents[n % 2])) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_a_killed_process_are_removed_and_others_stay(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from medseg.io.atomic import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'a.txt')!r}) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (leftover,) = tmp_path.iterdir()
    with atomic_path(tmp_path / "b.txt") as mine:
        mine.write_text("mine")
        assert remove_leftovers(tmp_path) == [leftover]
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_a_refused_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission bits do not hold for root, so the system's refusal is given by hand."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(
        ResourceError, match=r"a\.txt: cannot be written: Permission denied; choose a folder that you may"
    ):
        write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_a_database_in_the_making_leaves_no_journal_and_a_file_of_others_keeps_theirs(tmp_path: Path) -> None:
    with vanishing(temporary_beside(tmp_path / "mlflow.db")) as made:
        for end in ("", "-journal", "-wal", "-shm"):
            made.with_name(made.name + end).touch()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scan.nii-journal").touch()
    with vanishing(tmp_path / "scan.nii") as other:
        other.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii-journal"]
