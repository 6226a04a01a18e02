"""`medseg bundle register`: a cleaned copy of a bundle goes to the MLflow registry."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from medseg.bundle.catalogue import find_bundle
from medseg.bundle.configs.metadata import read_metadata
from medseg.errors import BundleError
from medseg.interruption import run_to_the_end
from medseg.io.atomic import vanishing
from medseg.layout import Layout, bundle_name
from medseg.tracking.mlflow_registry import log_bundle

from .pack import write_clean_copy


def requirements(metadata: dict[str, Any]) -> list[str]:
    """Exact pip requirements from metadata.json, the versions the bundle was made with."""
    own = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}
    table = {package: metadata[key] for package, key in own.items() if key in metadata}
    table |= metadata.get("required_packages_version", {})
    return [f"{package}=={version}" for package, version in sorted(table.items())]


def register_bundle(
    path_or_name: str | Path,
    *,
    name: str | None = None,
    alias: str = "champion",
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Log a bundle without results, data paths and case names, register it, and set an alias.

    Args:
        path_or_name: the bundle.
        name: registered name; by default the bundle's.
        alias: alias of the new version.
        tracking_uri: by default `MLFLOW_TRACKING_URI`, then runs/mlflow.db in the bundle.

    Raises:
        BundleError: the bundle has no weights yet.
    """
    folder = find_bundle(path_or_name)
    layout = Layout(folder)
    if not (layout.weights.is_file() or layout.safetensors.is_file()):
        raise BundleError(f"{layout.weights} is missing: train the bundle before it is registered")
    metadata = read_metadata(folder)
    with vanishing(tempfile.mkdtemp()) as place:
        copy = write_clean_copy(folder, place / bundle_name(folder))
        run_to_the_end()  # a version that is registered would be registered twice by the same command
        return log_bundle(
            copy,
            name or bundle_name(folder),
            store=layout.runs,
            alias=alias,
            tracking_uri=tracking_uri,
            params={"bundle_version": metadata.get("version", ""), "task": metadata.get("task", "")},
            requirements=requirements(metadata),
        )
