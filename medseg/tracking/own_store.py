"""The SQLite store that lies in a bundle: used only when it was made there, since it can send files anywhere.

A row of it says where an experiment's files go, and that may be any address. A store that came along with somebody's bundle,
or with a folder that was moved, is set aside under another name; nothing of it is lost or opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

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


@contextlib.contextmanager
def _read_only(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
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
    """Rename a store that was not made in this folder; returns whether there was one."""
    file = database(store)
    if not file.is_file():
        return False
    own = artifact_place(store)
    try:
        foreign = any(place != own and not place.startswith(f"{own}/") for place in _places(file))
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
    """Whether the local store holds a run."""
    file = database(store)
    if not file.is_file():
        return False
    try:
        with _read_only(file) as connection:
            found = connection.execute("select count(*) from runs where run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.Error:
        return False
    return bool(found[0])
