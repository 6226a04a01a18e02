"""The address that MLflow has for the whole process stays the user's, whatever opens a store of ours meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@contextmanager
def kept_address() -> Iterator[None]:
    """Let a block set MLflow's addresses, and take them back after it, also from the variables that child processes get.

    Lightning's logger sets the process's address to its own store when it opens one, and never back: the next bundle that is
    trained in the same process would be recorded there, too.
    """
    import mlflow
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as service

    # what was set in words of its own, and not what stands for it: no public function tells the two apart
    tracking, registered = getattr(service, "_tracking_uri", None), getattr(registry, "_registry_uri", None)
    environment = {name: os.environ.get(name) for name in NAMES}
    try:
        yield
    finally:
        mlflow.set_tracking_uri(tracking or "")
        mlflow.set_registry_uri(registered or "")
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
