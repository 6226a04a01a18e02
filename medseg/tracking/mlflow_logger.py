"""Lightning's MLflow logger with a store that works out of the box.

Without a server the runs go into an SQLite file. Lightning's own default, a folder of files, is refused by MLflow since
3.13; artifacts would land in the working directory unless their place is named when the experiment is first created.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

from medseg.config import read_json
from medseg.interruption import deferred
from medseg.layout import Layout, RunFolder

from .own_store import artifact_place, database, knows_run, set_foreign_store_aside
from .run_report import curves_picture, plan_record, run_page

log = logging.getLogger(__name__)


def tracking_uri(store: Path, uri: str | None = None) -> str:
    """Where runs are recorded: the argument, then `MLFLOW_TRACKING_URI`, then an SQLite file in `store`.

    The argument must be the user's own word; an address that a bundle's file names is none.
    """
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database(store).absolute()}"


class RunLogger(MLFlowLogger):
    """The MLflow logger of one training run.

    Args:
        store: folder of the default SQLite file and its artifacts.
        experiment: name of the experiment, one per bundle.
        run_name: such as `fold_0`.
        uri: a tracking server, see `tracking_uri`.
        run_id: an earlier run to continue.
        system_metrics: also record use of processor, memory and GPU. Lightning starts runs through the client, where
            MLflow's own switch has no effect, so its monitor is started here with the first metrics.
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
        system_metrics: bool = True,
    ) -> None:
        # MLflow's import sets its loggers to INFO: the first run of a bundle would begin with its database's migrations
        for name in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        where = tracking_uri(store, uri)
        local = where.startswith("sqlite:")
        if local:
            store.mkdir(parents=True, exist_ok=True)
        if where == f"sqlite:///{database(store).absolute()}":
            set_foreign_store_aside(store)
            run_id = run_id if run_id is not None and knows_run(store, run_id) else None
        with deferred():  # MLflow makes its tables here, and a store with half of them is of no use
            super().__init__(
                experiment_name=experiment,
                run_name=run_name,
                tracking_uri=where,
                run_id=run_id,
                tags=tags,
                artifact_location=artifact_place(store) if local else None,
            )
        self.store = store
        _opens_on_runs(self)
        self.run_folder = store / run_name
        self.resumed = run_id is not None
        self.monitor: Any = None
        self.wants_monitor = system_metrics

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.wants_monitor:
            self.wants_monitor = False
            self._start_monitor()
        super().log_metrics(metrics, step)

    def finalize(self, status: str = "success") -> None:
        """End the run; a successful one keeps its plan, curves and page."""
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None
        if status == "success" and self._initialized:
            try:
                self._keep_results()
            except (OSError, ValueError, KeyError) as error:
                log.warning("the run's plan and curves were not recorded: %s", error)
        super().finalize(status)

    def _start_monitor(self) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        try:
            monitor = SystemMetricsMonitor(self.run_id, resume_logging=self.resumed, tracking_uri=self._tracking_uri)
            monitor.start()
        except (MlflowException, OSError) as error:
            log.info("system metrics are not recorded: %s", str(error).splitlines()[0])
            return
        self.monitor = monitor

    def _keep_results(self) -> None:
        run = RunFolder(self.run_folder)
        plan, metrics = Layout(self.store.parent).plan, run.metrics
        if plan.is_file():
            self.log_json(plan.name, plan_record(plan))
        if not metrics.is_file():
            return
        rows = read_json(metrics)
        record = run.manifest
        manifest = read_json(record) if record.is_file() else {}
        picture = curves_picture(rows)
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "curves.png").write_bytes(picture)
            self.log_file(Path(place) / "curves.png", "pictures")
        page = run_page(f"{self.name} {self.run_folder.name}", rows, manifest, picture)
        self.experiment.log_text(self.run_id, page, "report.html")

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


def _opens_on_runs(logger: RunLogger) -> None:
    """Let MLflow's page of the experiment open on training runs and not on traces of language models."""
    key, value = "mlflow.experimentKind", "custom_model_development"
    found = logger.experiment.get_experiment(logger.experiment_id)
    if found is not None and key not in found.tags:
        logger.experiment.set_experiment_tag(logger.experiment_id, key, value)


def open_parent(store: Path, experiment: str, *, uri: str | None = None, run_id: str | None = None) -> str:
    """Start, or find again, the run under which the runs of the folds are nested; returns its id.

    Args:
        store, experiment, uri: as in `RunLogger`.
        run_id: an earlier parent to continue with.
    """
    logger = RunLogger(store, experiment=experiment, run_name="all folds", uri=uri, run_id=run_id, system_metrics=False)
    return str(logger.run_id)


def close_parent(
    store: Path, experiment: str, run_id: str, metrics: dict[str, float], *, uri: str | None = None
) -> None:
    """Log the means over the folds and mark the parent run as finished."""
    logger = RunLogger(store, experiment=experiment, run_name="all folds", uri=uri, run_id=run_id, system_metrics=False)
    logger.log_metrics(metrics)
    logger.finalize("success")
