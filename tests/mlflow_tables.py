"""The tables of MLflow's sqlite store are made once per test process: its 70 migrations take 2 to 6 s for every new file.

A plugin of the suite. The first file is MLflow's own work; later ones are copies of it.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

STORE = "mlflow.store.db.utils"


@pytest.fixture(autouse=True)
def _tables_made_once() -> None:
    utils = sys.modules.get(STORE)
    if utils is not None and not isinstance(utils._initialize_tables, _MadeOnce):
        utils._initialize_tables = _MadeOnce(utils._initialize_tables)


class _MadeOnce:
    def __init__(self, make: Callable[[Any], None]) -> None:
        self.make = make
        self.made: sqlite3.Connection | None = None

    def __call__(self, engine: Any) -> None:
        file = engine.url.database if engine.url.drivername.startswith("sqlite") else None
        if not file or self.made is None:
            self.make(engine)
        if not file:
            return
        with closing(sqlite3.connect(file)) as connection:
            if self.made is None:
                self.made = sqlite3.connect(":memory:", check_same_thread=False)
                connection.backup(self.made)
            else:
                self.made.backup(connection)
