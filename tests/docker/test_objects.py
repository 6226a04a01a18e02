"""The profile `s3` of compose.yaml: the same MLflow server command, with its artifacts in an S3 store.

moto's server stands in for the store of compose.yaml, which cannot be started without a Docker engine: both speak the
S3 protocol, and MLflow reaches either through boto3 by the same three variables.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.test_server import COMPOSE, answers, free_port, wait_for

KEYS = {"S3_ACCESS_KEY": "only-for", "S3_SECRET_KEY": "this-test"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Address of an empty S3 store."""
    for package in ("boto3", "moto"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "store.log").open("w") as log:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/moto-api/") != 0, 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def environment_of(service: dict[str, Any], values: dict[str, str]) -> dict[str, str]:
    """The service's variables with docker/.env filled in."""
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values.get(found.group(1), ""), str(value))
        for name, value in service["environment"].items()
    }


@pytest.mark.slow
def test_artifacts_reach_the_store_without_keys_in_the_client(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import mlflow

    service = yaml.safe_load(COMPOSE.read_text())["services"]["mlflow"]
    variables = environment_of(service, KEYS)
    assert variables["MLFLOW_S3_ENDPOINT_URL"] == "http://objects:8333"
    variables["MLFLOW_S3_ENDPOINT_URL"] = store
    client = boto3.client(
        "s3",
        endpoint_url=store,
        region_name="us-east-1",
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket="mlflow")
    port = free_port()
    text = "\n".join(service["command"]).replace("--host=0.0.0.0", "--host=127.0.0.1").replace(":5000", f":{port}")
    text = text.replace("--port=5000", f"--port={port}")
    text = re.sub(r"postgresql\S+", f"sqlite:///{tmp_path}/server.db", text)
    text = re.sub(r"\$\{MLFLOW_ARTIFACTS:-[^}]*\}", "s3://mlflow", text)
    words = [sys.executable, "-m", "mlflow", "server", *text.split("\n")]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **variables, "AWS_DEFAULT_REGION": "us-east-1"},
        )
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") == 200, 120)
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                monkeypatch.delenv(name)
            uri = f"http://127.0.0.1:{port}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            tracking = mlflow.MlflowClient(uri)
            run = tracking.create_run(tracking.create_experiment("objects"))
            (tmp_path / "plan.json").write_text('{"name": "tiny"}')
            tracking.log_artifact(run.info.run_id, str(tmp_path / "plan.json"), "bundle")
            assert run.info.artifact_uri.startswith("mlflow-artifacts:")
            kept = [entry["Key"] for entry in client.list_objects_v2(Bucket="mlflow")["Contents"]]
            assert [key for key in kept if key.endswith("artifacts/bundle/plan.json")]
            back = tracking.download_artifacts(run.info.run_id, "bundle/plan.json", str(tmp_path))
            assert Path(back).read_text() == '{"name": "tiny"}'
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)
