"""Lightning's MLflow logger with a store that works out of the box.

Without a server the runs go into an SQLite file. Lightning's own default, a folder of files, is refused by MLflow since
3.13; artifacts would land in the working directory unless their place is named when the experiment is first created.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger


def tracking_uri(store: Path, uri: str | None = None) -> str:
    """Where runs are recorded: the argument, then `MLFLOW_TRACKING_URI`, then an SQLite file in `store`."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(store / 'mlflow.db').absolute()}"


class RunLogger(MLFlowLogger):
    """The MLflow logger of one training run.

    Args:
        store: folder of the default SQLite file and its artifacts.
        experiment: name of the experiment, one per bundle.
        run_name: such as `fold_0`.
        uri: a tracking server, see `tracking_uri`.
        run_id: an earlier run to continue.
    """

    def __init__(
        self,
        store: Path,
        *,
        experiment: str,
        run_name: str,
        uri: str | None = None,
        run_id: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        where = tracking_uri(store, uri)
        local = where.startswith("sqlite:")
        if local:
            store.mkdir(parents=True, exist_ok=True)
        super().__init__(
            experiment_name=experiment,
            run_name=run_name,
            tracking_uri=where,
            run_id=run_id,
            tags=tags,
            artifact_location=(store / "mlartifacts").absolute().as_uri() if local else None,
        )

    def log_once(self, settings: dict[str, Any]) -> None:
        """Record settings of the run; where a continued run has other values, the new ones become tags `resumed.NAME`.

        MLflow refuses to change a parameter, and a resumed run differs at least in its date.
        """
        known = self.experiment.get_run(self.run_id).data.params
        self.log_hyperparams({name: value for name, value in settings.items() if name not in known})
        for name, value in settings.items():
            if name in known and known[name] != str(value):
                self.experiment.set_tag(self.run_id, f"resumed.{name}", str(value))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run."""
        self.experiment.log_artifact(self.run_id, str(path), folder)

    def log_json(self, name: str, content: dict[str, Any]) -> None:
        """Keep a JSON object with the run."""
        self.experiment.log_dict(self.run_id, content, name)

    def log_picture(self, name: str, array: Any) -> None:
        """Keep a picture (X, Y, 3), uint8, with the run."""
        self.experiment.log_image(self.run_id, array, f"pictures/{name}.png")


def open_parent(store: Path, experiment: str, *, uri: str | None = None, run_id: str | None = None) -> str:
    """Start, or find again, the run under which the runs of the folds are nested; returns its id.

    Args:
        store, experiment, uri: as in `RunLogger`.
        run_id: an earlier parent to continue with.
    """
    logger = RunLogger(store, experiment=experiment, run_name="all folds", uri=uri, run_id=run_id)
    return str(logger.run_id)


def close_parent(
    store: Path, experiment: str, run_id: str, metrics: dict[str, float], *, uri: str | None = None
) -> None:
    """Log the means over the folds and mark the parent run as finished."""
    logger = RunLogger(store, experiment=experiment, run_name="all folds", uri=uri, run_id=run_id)
    logger.log_metrics(metrics)
    logger.finalize("success")
