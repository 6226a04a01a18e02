"""Which MLflow run belongs to a run folder, so that a resumed training continues it."""

from __future__ import annotations

from pathlib import Path

from medseg.config import read_json
from medseg.io.atomic import write_json

FILE = "mlflow_run.json"


def read_run_id(folder: Path) -> str | None:
    """The run id recorded in the folder, or None."""
    try:
        return str(read_json(folder / FILE)["run_id"])
    except (OSError, ValueError, KeyError):
        return None


def write_run_id(folder: Path, run_id: str, experiment: str) -> None:
    write_json(folder / FILE, {"run_id": run_id, "experiment": experiment})
