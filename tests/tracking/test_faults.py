"""A tracking store that is locked, full, gone or broken never ends a training: what is to be recorded waits, and is told once."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from medseg.io.atomic import temporary_beside
from medseg.layout import RunFolder
from medseg.tracking import mlflow_logger, own_store
from medseg.tracking.kept_address import kept_address
from medseg.tracking.mlflow_logger import RunLogger, open_parent, send_leftovers
from medseg.tracking.mlflow_run import MlflowRun
from medseg.tracking.outbox import Entry, ForgottenError, Outbox, Patience, RefusedError, short
from medseg.tracking.own_store import database, ensure_store
from medseg.tracking.run_record import read_run_id

SHORT = Patience(1.0, 300.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an empty store: making one takes seconds."""
    folder = tmp_path_factory.mktemp("made")
    ensure_store(folder)
    return database(folder).read_bytes()


@pytest.fixture
def store(tmp_path: Path, made: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of runs of a bundle whose store is made in no time."""

    def quick(folder: Path) -> None:
        if not own_store.is_made(folder):
            database(folder).write_bytes(made)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("medseg.tracking.mlflow_run.ensure_store", quick)
    monkeypatch.setattr(mlflow_logger, "OWN_STORE", SHORT)
    RunFolder(tmp_path / "fold_0").folder.mkdir()
    event.listen(Engine, "before_cursor_execute", impatient, retval=True)
    yield tmp_path
    event.remove(Engine, "before_cursor_execute", impatient)


def impatient(_: object, __: object, statement: str, values: object, *___: object) -> tuple[str, object]:
    """MLflow lets SQLite wait for 20 s."""
    return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), values


def logger_of(store: Path, **settings: object) -> RunLogger:
    return RunLogger(store, experiment="tiny", run_name="fold_0", system_metrics=False, **settings)  # type: ignore[arg-type]


def recorded(store: Path) -> list[tuple[str, float, int]]:
    with sqlite3.connect(database(store)) as connection:
        return sorted(connection.execute("select key, value, step from metrics").fetchall())


def test_a_locked_store_is_waited_for_without_holding_up_the_training(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logger_of(store)
    logger.log_metrics({"loss": 2.0}, 1)
    assert logger.outbox.flush(SHORT)
    locker = sqlite3.connect(database(store), check_same_thread=False)
    locker.execute("begin exclusive")
    began = time.monotonic()
    for step in range(2, 5):
        logger.log_metrics({"loss": 1.0 / step}, step)
    assert time.monotonic() - began < 5  # MLflow alone waits for 20
    end = time.monotonic() + 120
    while "training goes on" not in caplog.text and time.monotonic() < end:
        time.sleep(0.1)
    assert caplog.text.count("does not take the run's record") == 1
    assert "database is locked" in caplog.text
    locker.rollback()
    locker.close()
    logger.finalize("finished")
    assert sorted(step for _, _, step in recorded(store)) == [1, 2, 3, 4]
    assert not RunFolder(store / "fold_0").untracked.exists()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_store_that_vanishes_is_made_anew_with_all_that_was_said(store: Path, left: str) -> None:
    """SQLite leaves an empty file where another connection, such as the monitor's, looked for the removed one."""
    logger = logger_of(store)
    logger.log_metrics({"loss": 2.0}, 1)
    first = logger.run_id
    database(store).unlink()
    if left == "an empty file":
        database(store).touch()
    logger.log_metrics({"loss": 1.0}, 2)
    logger.finalize("finished")
    assert recorded(store) == [("loss", 1.0, 2), ("loss", 2.0, 1)]
    assert read_run_id(store / "fold_0") == logger.run_id != first


def test_what_a_store_never_takes_is_kept_and_sent_later(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: MlflowRun, entry: Entry) -> None:
        raise sqlite3.OperationalError("database or disk is full [SQL: INSERT INTO metrics] (Background on this error")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "send", full)
        logger = logger_of(store)
        logger.log_metrics({"loss": 2.0}, 1)
        logger.finalize("finished")
        assert logger.run_id is None
        assert open_parent(store, "tiny") is None
    kept = RunFolder(store / "fold_0").untracked
    assert [row["kind"] for row in json.loads(kept.read_text())] == ["metrics", "end"]
    assert "(database or disk is full); they are kept in" in caplog.text
    send_leftovers(store, "tiny", "fold_0", None)
    assert recorded(store) == [("loss", 2.0, 1)]
    assert not kept.exists()


def test_a_locked_store_is_not_set_aside_and_a_broken_one_is(
    tmp_path: Path, made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_store, "BUSY_S", 0.1)
    database(tmp_path).write_bytes(made)
    locker = sqlite3.connect(database(tmp_path))
    locker.execute("begin exclusive")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        own_store.set_foreign_store_aside(tmp_path)
    locker.close()
    database(tmp_path).write_bytes(b"no database" * 100)
    assert own_store.set_foreign_store_aside(tmp_path)


def test_a_server_that_is_not_there_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_logger, "SERVER", SHORT)
    (tmp_path / "fold_0").mkdir()
    with caplog.at_level(logging.WARNING):
        logger = logger_of(tmp_path, uri="http://me:secret@127.0.0.1:9/runs")
        logger.log_metrics({"loss": 2.0}, 1)
        logger.finalize("finished")
    assert "http://127.0.0.1:9/runs does not take the run's record" in caplog.text
    assert "2 entries of the run's record could not be sent" in caplog.text
    assert not database(tmp_path).exists()


def test_the_outbox_drops_what_is_refused_and_repeats_what_was_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[str] = []

    def send(entry: Entry) -> None:
        if entry.kind == "bad":
            raise RefusedError("no such thing")
        if entry.kind == "third" and taken.count("first") == 1:
            raise ForgottenError
        taken.append(entry.kind)

    outbox = Outbox(send, "the store", None)
    for kind in ("first", "bad", "third"):
        outbox.put(Entry(kind))
    assert outbox.close(SHORT)
    assert taken == ["first", "first", "third"]
    assert "the store refused an entry of the run's record: no such thing" in caplog.text


def test_errors_are_told_in_few_words() -> None:
    assert short(RuntimeError("(x) locked\n[SQL: select 1] (Background on this error at: https://x)")) == "(x) locked"
    assert short(ValueError()) == "ValueError"


@pytest.mark.parametrize("users", [None, "sqlite:////nowhere/else.db"])
def test_each_bundle_of_one_process_is_recorded_in_its_own_store_whatever_its_folder_is_called(
    store: Path, monkeypatch: pytest.MonkeyPatch, users: str | None
) -> None:
    """Lightning's logger leaves the process's address at the store that it opened."""
    import mlflow

    monkeypatch.delenv(
        "MLFLOW_REGISTRY_URI", raising=False
    )  # an earlier test of this process may have named a registry
    folders = [store / name for name in ("a#b", "what? 100%", "50%20%3F", "plain")]
    for number, folder in enumerate(folders):
        (folder / "fold_0").mkdir(parents=True)
        logger = logger_of(folder)
        logger.log_metrics({"loss": float(number)}, 1)
        logger.finalize("finished")
        assert "MLFLOW_TRACKING_URI" not in os.environ
    assert [recorded(folder) for folder in folders] == [[("loss", float(number), 1)] for number in range(4)]
    if users is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", users)
    default = mlflow.get_tracking_uri()
    with kept_address():
        mlflow.set_tracking_uri("sqlite:////ours.db")
        mlflow.set_registry_uri("sqlite:////ours.db")
        assert mlflow.get_tracking_uri() != default
    assert mlflow.get_tracking_uri() == default
    assert mlflow.get_registry_uri() == default
    assert os.environ.get("MLFLOW_TRACKING_URI") == users
    assert "MLFLOW_REGISTRY_URI" not in os.environ


def test_what_a_killed_training_left_of_its_store_is_gone_when_the_next_one_opens_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = temporary_beside(database(tmp_path)).name
    left = tmp_path / own.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    left.write_bytes(b"half a store")
    ensure_store(tmp_path)
    assert not left.exists()
    left.write_bytes(b"half a store")
    ensure_store(tmp_path)  # the store is there already
    assert not left.exists()
