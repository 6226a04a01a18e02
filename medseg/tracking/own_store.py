"""The SQLite store that lies in a bundle: used only when it was made there, since it can send files anywhere.

A row of it says where an experiment's files go, and that may be any address. A store that came along with somebody's bundle,
or with a folder that was moved, is set aside under another name; nothing of it is lost or opened.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from medseg.io.atomic import atomic_path, remove_leftovers
from medseg.io.locks import alone_in

log = logging.getLogger(__name__)

LOCK = ".mlflow.lock"
BUSY_S = 5.0  # for which a reader waits for a writer
QUESTIONS = (
    "select artifact_location from experiments where experiment_id != 0",
    "select artifact_uri from runs",
    "select source from model_versions where source not like 'models:%'",
    "select url from webhooks",
)


def artifact_place(store: Path) -> str:
    """Where the files of a local store's experiments go, as MLflow writes it."""
    return (store / "mlartifacts").absolute().as_uri()


def database(store: Path) -> Path:
    """The local store's file."""
    return store / "mlflow.db"


def sqlite_uri(file: Path) -> str:
    """The store's address. A question mark would begin its options and a percent sign is taken for the begin of a coded letter,
    so that such a folder is reached by a link without them.
    """
    folder = file.absolute().parent
    return f"sqlite:///{_plain_link(folder) if set('?%') & set(str(folder)) else folder}/{file.name}"


@functools.cache
def _plain_link(folder: Path) -> Path:
    place = Path(tempfile.mkdtemp(prefix="medseg-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    link = place / "to"
    link.symlink_to(folder, target_is_directory=True)
    return link


def is_made(store: Path) -> bool:
    """Whether the store is there; SQLite makes an empty file where one was removed under an open connection."""
    try:
        return database(store).stat().st_size > 0
    except OSError:
        return False


def ensure_store(store: Path) -> None:
    """Make the store where there is none, whole or not at all; one process at a time.

    Raises:
        sqlite3.OperationalError: it is there and cannot be read now: locked by somebody, or the disk fails.
        ResourceError: it cannot be written.
    """
    with alone_in(store / LOCK):
        remove_leftovers(store)  # of a training that was killed while it made the store
        set_foreign_store_aside(store)
        file = database(store)
        if is_made(store):
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with atomic_path(file) as temporary, _unsynced():
            SqlAlchemyStore(sqlite_uri(temporary), artifact_place(store)).engine.dispose()


@contextlib.contextmanager
def _unsynced() -> Iterator[None]:
    """Leave out the hundred flushes of MLflow's migrations: the file is flushed once, when it gets its name."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hasten(connection: object, _: object) -> None:
        if threading.current_thread() is here and isinstance(connection, sqlite3.Connection):
            connection.execute("pragma synchronous = off")

    here = threading.current_thread()
    event.listen(Engine, "connect", hasten)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hasten)


def dispose(logger: object) -> None:
    """Close a logger's connections: they may lead to a file that is gone from its place."""
    client = getattr(logger, "_mlflow_client", None)
    engine = getattr(getattr(getattr(client, "_tracking_client", None), "store", None), "engine", None)
    if engine is not None:
        engine.dispose()


@contextlib.contextmanager
def _read_only(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
    try:
        yield connection
    finally:
        connection.close()


def _places(file: Path) -> list[str]:
    """Every place that the store would send something to.

    Raises:
        sqlite3.Error: it is no store.
    """
    with _read_only(file) as connection:
        tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
        kept = [question for question in QUESTIONS if question.split(" from ")[1].split()[0] in tables]
        if "experiments" in tables:
            default = connection.execute("select artifact_location from experiments where experiment_id = 0").fetchall()
            addresses = [str(row[0]) for row in default if "://" in str(row[0]) and not str(row[0]).startswith("file:")]
        else:
            addresses = []
        return addresses + [str(row[0]) for question in kept for row in connection.execute(question)]


def set_foreign_store_aside(store: Path) -> bool:
    """Rename a store that was not made in this folder, or that is no store; returns whether there was one.

    Raises:
        sqlite3.OperationalError: it cannot be read now, such as one that another program has locked.
    """
    file = database(store)
    if not file.is_file():
        return False
    own = artifact_place(store)
    try:
        foreign = any(place != own and not place.startswith(f"{own}/") for place in _places(file))
    except sqlite3.OperationalError:
        raise  # it may be read later
    except sqlite3.Error:
        foreign = True
    if not foreign:
        return False
    number = 1
    while (aside := file.with_name(f"mlflow_from_elsewhere_{number}.db")).exists():
        number += 1
    os.replace(file, aside)
    for ending in ("-wal", "-shm", "-journal"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    log.warning("%s was not made in this folder and would send files elsewhere; it is kept as %s", file, aside.name)
    return True


def knows_run(store: Path, run_id: str) -> bool:
    """Whether the local store holds a run. Raises sqlite3.OperationalError where it cannot be read now."""
    file = database(store)
    if not file.is_file():
        return False
    try:
        with _read_only(file) as connection:
            found = connection.execute("select count(*) from runs where run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return False
        raise
    except sqlite3.Error:
        return False
    return bool(found[0])
