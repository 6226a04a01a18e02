"""The server command of compose.yaml, started for real: PostgreSQL, MLflow, and a Lightning run against both."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bundle.samples import make_bundle

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
PASSWORD = "only-for-this-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(check: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise TimeoutError("the server did not start in time")
        time.sleep(0.5)


def answers(address: str, host: str | None = None) -> int:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a fresh PostgreSQL with the database and user of compose.yaml."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("no PostgreSQL server found")
    folder = Path("/tmp") / f"medseg_pg_{os.getpid()}"  # short: a socket's path may have 107 characters only
    folder.mkdir(mode=0o755)
    as_root = os.geteuid() == 0
    who = {"user": "postgres"} if as_root else {}  # PostgreSQL refuses to run as root
    if as_root:
        shutil.chown(folder, "postgres")
    (folder / "password").write_text(PASSWORD)
    if as_root:
        shutil.chown(folder / "password", "postgres")
    data, port = folder / "data", free_port()
    words = ["initdb", "-D", str(data), "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={folder}/password"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder, **who)
    words = ["postgres", "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who)
    try:
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        address = ["-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]

        def ready() -> bool:
            return subprocess.run(["pg_isready", *address], capture_output=True, check=False).returncode == 0

        wait_for(ready, 30)
        subprocess.run(["createdb", *address, "mlflow"], check=True, env=environment)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[str]:
    """Address of an MLflow server started with the command of compose.yaml."""
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("the package psycopg2 is not installed")
    port = free_port()
    words = yaml.safe_load(COMPOSE.read_text())["services"]["mlflow"]["command"]
    text = "\n".join(words).replace("${POSTGRES_PASSWORD}", PASSWORD).replace("database:5432", database)
    text = re.sub(r"\$\{MLFLOW_ARTIFACTS:-[^}]*\}", str(tmp_path / "artifacts"), text)
    text = text.replace("--port=5000", f"--port={port}").replace("--host=0.0.0.0", "--host=127.0.0.1")
    text = text.replace(":5000", f":{port}")
    command = [sys.executable, "-m", "mlflow", "server", *text.split("\n")]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") == 200, 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)
        log.close()


@pytest.mark.slow
def test_lightning_run_reaches_the_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from medseg.commands.fit import fit_bundle

    port = server.rsplit(":", 1)[1]
    assert answers(f"{server}/health", host=f"mlflow:{port}") == 200
    assert answers(f"{server}/api/2.0/mlflow/experiments/get?experiment_id=0", host=f"mlflow:{port}") == 200
    assert answers(f"{server}/api/2.0/mlflow/experiments/get?experiment_id=0", host="evil.example:80") == 403

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    layout = make_bundle(tmp_path / "tiny_mr_unet", tmp_path / "data")
    fit_bundle(layout.folder, fold=0)
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("tiny_mr_unet")
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert any("loss" in name for name in run.data.metrics)
    assert any((tmp_path / "artifacts").rglob("manifest.json"))
