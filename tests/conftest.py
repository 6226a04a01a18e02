"""Fixtures shared by the whole suite. Nothing here needs a network, a GPU or real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.mlflow_tables", "tests.skip_report"]

# Set before torch is imported anywhere: two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes named by MEDSEG_DATA; the test is skipped, with the reason, without it."""
    folder = os.environ.get("MEDSEG_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real volumes: MEDSEG_DATA is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep MLflow and store caches of the tests out of the user's folders; compiled kernels stay shared."""
    monkeypatch.setenv("MEDSEG_STORE", str(tmp_path_factory.getbasetemp() / "store"))
    # copies of one bundle count as a stranger's in another test's folders; tests of the child process unset this
    monkeypatch.setenv("MEDSEG_FOREIGN", "inside")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return
