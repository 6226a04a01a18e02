"""Sends entries of a run's record to MLflow: finds or makes store, experiment and run when the first entry comes."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pytorch_lightning.loggers import MLFlowLogger

from medseg.layout import Layout, RunFolder

from .kept_address import kept_address
from .outbox import Entry, ForgottenError, RefusedError
from .own_store import artifact_place, database, dispose, ensure_store, is_made, knows_run, sqlite_uri
from .plan_record import plan_record
from .run_record import write_run_id

log = logging.getLogger(__name__)
NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
# MLflow makes and checks its tables with alembic, whose state belongs to the process: two threads at once break it for good.
_OPENING = threading.Lock()
QUIET = ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow", "mlflow.system_metrics", "mlflow.store.db.utils")


@dataclass(frozen=True)
class Destination:
    """Where a run is recorded.

    Args:
        store: folder of the default SQLite file and its artifacts.
        uri: address of the store.
        experiment, run_name: names.
        tags: of the run.
        notes_id: whether the run's folder notes the run's id.
    """

    store: Path
    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str] | None = None
    notes_id: bool = True

    @property
    def is_own(self) -> bool:
        """Whether it is the SQLite file in the bundle."""
        return self.uri == sqlite_uri(database(self.store))

    @property
    def shown(self) -> str:
        """The store's name without passwords."""
        if self.is_own:
            return str(database(self.store))
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


class MlflowRun:
    """One run in an MLflow store.

    Args:
        destination: where.
        run_id: an earlier run to continue.
    """

    def __init__(self, destination: Destination, run_id: str | None) -> None:
        self.destination = destination
        self.earlier: str | None = run_id
        self.run_id: str | None = None
        self.inner: MLFlowLogger | None = None
        self.monitor: Any = None
        self.resumed = False

    @property
    def client(self) -> Any:
        assert self.inner is not None
        return self.inner.experiment

    def send(self, entry: Entry) -> None:
        """Record one entry.

        Raises:
            ForgottenError: the store has lost the run; a new one was made.
            RefusedError: the store will never take it.
            Exception: whatever the store raises.
        """
        action = getattr(self, f"_send_{entry.kind}", None)
        if action is None:
            raise RefusedError(f"unknown kind {entry.kind!r}")
        self._connect()
        try:
            action(entry)
        except MlflowException as error:
            code = getattr(error, "error_code", "")
            if code == "RESOURCE_DOES_NOT_EXIST":
                self._forget()
                raise ForgottenError from error
            if code in NEVER and type(error.__cause__).__name__ != "DatabaseError":  # else the file is damaged
                raise RefusedError(" ".join(str(error).split())[:200]) from error
            raise

    def _connect(self) -> None:
        own = self.destination.is_own
        if self.inner is not None and (not own or is_made(self.destination.store)):
            return
        for name in QUIET:  # MLflow's import sets its loggers to INFO; what fails is told by the outbox
            logging.getLogger(name).setLevel(logging.CRITICAL)
        before = self.run_id
        earlier = self.run_id or self.earlier
        with _OPENING:
            if own:
                if self.inner is not None:
                    self._forget()
                ensure_store(self.destination.store)
                earlier = earlier if earlier is not None and knows_run(self.destination.store, earlier) else None
            with kept_address():
                self._open(earlier)
        if before is not None and self.run_id != before:
            raise ForgottenError

    def _open(self, earlier: str | None) -> None:
        to = self.destination
        local = to.uri.startswith("sqlite:")
        if local:
            to.store.mkdir(parents=True, exist_ok=True)
        # the process's variables may send the run elsewhere only where the user's own word says so
        inner = MLFlowLogger(
            experiment_name=to.experiment,
            run_name=to.run_name,
            tracking_uri=to.uri,
            run_id=earlier,
            tags=dict(to.tags) if to.tags else None,
            artifact_location=artifact_place(to.store) if local else None,
        )
        try:
            run_id = str(inner.run_id)
        except MlflowException as error:
            if earlier is None or getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.earlier = None
            return self._open(None)
        _open_on_runs(inner)
        self.inner, self.run_id, self.resumed = inner, run_id, earlier is not None
        folder = to.store / to.run_name
        if to.notes_id and folder.is_dir():
            write_run_id(folder, run_id, str(inner.name))

    def _forget(self) -> None:
        self._stop_monitor()
        if self.inner is not None:
            dispose(self.inner)
        self.inner = None

    def _send_metrics(self, entry: Entry) -> None:
        step = int(entry.content["step"] or 0)
        rows = [Metric(name, float(value), entry.at_ms, step) for name, value in entry.content["values"].items()]
        self.client.log_batch(self.run_id, metrics=rows)

    def _send_settings(self, entry: Entry) -> None:
        """Settings of the run; where a continued run has other values, the new ones become tags `resumed.NAME`.

        MLflow refuses to change a parameter, and a resumed run differs at least in its date.
        """
        assert self.inner is not None
        settings = entry.content
        known = self.client.get_run(self.run_id).data.params
        self.inner.log_hyperparams({name: value for name, value in settings.items() if name not in known})
        for name, value in settings.items():
            if name in known and known[name] != str(value):
                self.client.set_tag(self.run_id, f"resumed.{name}", str(value))

    def _send_file(self, entry: Entry) -> None:
        path = Path(entry.content["path"])
        if not path.is_file():
            raise RefusedError(f"{path.name} is gone")
        self.client.log_artifact(self.run_id, str(path), entry.content.get("folder"))

    def _send_json(self, entry: Entry) -> None:
        self.client.log_dict(self.run_id, entry.content["content"], entry.content["name"])

    def _send_results(self, _: Entry) -> None:
        """The run's plan, and its curves and page as its folder has them."""
        store = self.destination.store
        run, plan = RunFolder(store / self.destination.run_name), Layout(store.parent).plan
        try:
            plan_facts = plan_record(plan) if plan.is_file() else None
        except (OSError, ValueError, KeyError) as error:
            raise RefusedError(f"plan: {error}") from error
        if plan_facts is not None:
            self.client.log_dict(self.run_id, plan_facts, plan.name)
        if run.progress.is_file():
            with tempfile.TemporaryDirectory() as place:
                shutil.copyfile(run.progress, picture := os.path.join(place, "curves.png"))
                self.client.log_artifact(self.run_id, picture, "pictures")
        if run.report.is_file():
            self.client.log_artifact(self.run_id, str(run.report))

    def _send_monitor(self, _: Entry) -> None:
        """Use of processor, memory and GPU. Lightning starts runs through the client, where MLflow's own switch has no effect."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._stop_monitor()
        try:
            monitor = SystemMetricsMonitor(self.run_id, resume_logging=self.resumed, tracking_uri=self.destination.uri)
            monitor.start()
        except (MlflowException, OSError) as error:
            log.info("system metrics are not recorded: %s", str(error).splitlines()[0])
            return
        self.monitor = monitor

    def _stop_monitor(self) -> None:
        if self.monitor is not None:
            monitor, self.monitor = self.monitor, None
            monitor.finish()

    def _send_end(self, entry: Entry) -> None:
        assert self.inner is not None
        self._stop_monitor()
        self.inner.finalize(entry.content["status"])


def _open_on_runs(logger: MLFlowLogger) -> None:
    """Let MLflow's page of the experiment open on training runs and not on traces of language models."""
    key, value = "mlflow.experimentKind", "custom_model_development"
    found = logger.experiment.get_experiment(logger.experiment_id)
    if found is not None and key not in found.tags:
        logger.experiment.set_experiment_tag(logger.experiment_id, key, value)
