"""Processes that build one cold store: each case is built once, nobody meets the other's exchange."""

from __future__ import annotations

import importlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from medseg.io import store as store_module
from medseg.io.datalist import Case
from medseg.io.locks import is_held
from medseg.io.store import Store, StoredArrays
from tests.io.test_store import Builder
from tests.volumes import make_case

pytestmark = pytest.mark.requirement("R8")


class SlowBuilder(Builder):
    """Takes its time, as preprocessing does."""

    def __call__(self, case: Case) -> StoredArrays:
        time.sleep(0.05)
        return super().__call__(case)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [make_case(tmp_path / "data", f"c{i}", shape=(8, 8, 8), radius=2, seed=i) for i in range(3)]


def at_once(*actions: object) -> list[BaseException]:
    failures: list[BaseException] = []

    def run(action: object) -> None:
        try:
            action()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_several_that_build_one_cold_store_build_each_case_once(tmp_path: Path, cases: list[Case]) -> None:
    build = SlowBuilder()
    stores = [Store({"a": 1}, tmp_path / "s") for _ in range(4)]
    assert at_once(*[lambda store=store: store.ensure_all(cases, build, workers=2) for store in stores]) == []
    assert build.calls == len(cases)


def test_on_a_drive_without_locks_the_loser_takes_the_winners(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(self: object, *_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    stores = [Store({"a": 1}, tmp_path / "s") for _ in range(6)]
    for _ in range(4):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        assert at_once(*[lambda store=store: store.ensure(cases[0], SlowBuilder()) for store in stores]) == []


def test_other_ranks_wait_for_the_first_and_build_only_where_nobody_does(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SlowBuilder(), Builder()
    store, seen = Store({"a": 1}, tmp_path / "s"), []
    assert (
        at_once(
            lambda: (time.sleep(0.1), store.ensure_all(cases, first)),
            lambda: store.await_all(cases, second, progress=lambda done, total: seen.append((done, total))),
        )
        == []
    )
    assert (first.calls, second.calls) == (3, 0)
    assert seen[-1] == (3, 3)
    monkeypatch.setattr(store_module, "OTHERS_MAY_IDLE_S", 0.0)
    alone = Store({"a": 2}, tmp_path / "s")
    alone.await_all(cases, second)
    assert second.calls == 3
    assert not is_held(alone._lock(cases[0]))


def test_a_folder_that_comes_and_goes_while_a_case_gets_its_name_is_waited_out(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, refused, replace = Store({"a": 1}, tmp_path / "s"), [], os.replace

    def busy_once(source: str | Path, target: str | Path) -> None:
        if Path(target) == store.case_folder(cases[0]) and not refused:
            refused.append(target)
            raise OSError(39, "Directory not empty")
        replace(source, target)

    monkeypatch.setattr("os.replace", busy_once)
    assert store.ensure(cases[0], Builder()).image.shape
    assert len(refused) == 1


@pytest.mark.parametrize("last_seen", ["numpy.load", "medseg.io.store._checksum"])
def test_a_folder_that_goes_after_its_record_was_read_is_not_there_yet(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch, last_seen: str
) -> None:
    store, taken = Store({"a": 1}, tmp_path / "s"), []
    store.ensure(cases[0], Builder())
    module, name = last_seen.rsplit(".", 1)
    read = getattr(importlib.import_module(module), name)

    def taken_away(path: Path, *arguments: object, **options: object) -> object:
        if not taken:
            taken.append(path)
            shutil.rmtree(store.case_folder(cases[0]))
        return read(path, *arguments, **options)

    monkeypatch.setattr(last_seen, taken_away)
    with pytest.raises(store_module.DamagedStoreError, match="being exchanged"):
        store.open(cases[0], verify=True)
    assert store.ensure(cases[0], Builder()).image.shape
