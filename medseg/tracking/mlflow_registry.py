"""A bundle as a version of a model in the MLflow registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .kept_address import kept_address
from .mlflow_logger import tracking_uri as resolve_uri
from .own_store import artifact_place, database, set_foreign_store_aside, sqlite_uri

log = logging.getLogger(__name__)


def _signature() -> object:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = DataType.string
    return ModelSignature(
        inputs=Schema([ColSpec(text, "image")]),
        outputs=Schema([ColSpec(text, "image"), ColSpec(text, "label")]),
        params=ParamSchema([ParamSpec("output_folder", text, "predictions")]),
    )


def _experiment(client: Any, name: str, store: Path, uri: str) -> str:
    """Id of the experiment; its artifacts lie beside the SQLite file when there is no server."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = artifact_place(store) if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=place))


def log_bundle(
    folder: Path,
    name: str,
    *,
    store: Path,
    alias: str = "champion",
    tracking_uri: str | None = None,
    params: Mapping[str, Any] | None = None,
    requirements: Sequence[str] = (),
) -> dict[str, Any]:
    """Log a bundle folder as a pyfunc model, register it, and point an alias at the new version.

    Args:
        folder: the bundle as it should be kept; everything in it is uploaded.
        name: registered name, also the experiment's.
        store: folder of the SQLite file that is used when no server is given.
        alias: such as champion.
        tracking_uri: server or database; by default `MLFLOW_TRACKING_URI`, then `store`/mlflow.db.
        params: facts shown with the run.
        requirements: pip requirements of the model's environment, exact.

    Returns:
        name, version, alias, run_id, model_uri, tracking_uri.
    """
    import mlflow
    from mlflow import MlflowClient

    uri = resolve_uri(store, tracking_uri)
    if uri.startswith("sqlite:"):
        store.mkdir(parents=True, exist_ok=True)
    if uri == sqlite_uri(database(store)):
        set_foreign_store_aside(store)
    with kept_address():
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = MlflowClient(uri)
        experiment = _experiment(client, name, store, uri)
        with mlflow.start_run(experiment_id=experiment, run_name="register") as run:
            mlflow.log_params(dict(params or {}))
            logged = mlflow.pyfunc.log_model(
                name="bundle",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"bundle": str(folder)},
                signature=_signature(),
                pip_requirements=list(requirements),
                registered_model_name=name,
            )
        version = str(logged.registered_model_version)
        client.set_registered_model_alias(name, alias, version)
    return {
        "name": name,
        "version": version,
        "alias": alias,
        "run_id": run.info.run_id,
        "model_uri": f"models:/{name}@{alias}",
        "tracking_uri": uri,
    }
