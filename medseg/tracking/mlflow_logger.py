"""Lightning's logger of a run: MLflow, with a store that works out of the box and may fail without harm.

Without a server the runs go into an SQLite file. Lightning's own default, a folder of files, is refused by MLflow since
3.13; artifacts would land in the working directory unless their place is named when the experiment is first created.
Everything is handed to an `Outbox`, whose thread talks to the store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from medseg.layout import RunFolder

from .mlflow_run import Destination, MlflowRun
from .outbox import Entry, Outbox, Patience
from .own_store import database, sqlite_uri

# Of a run that ended as it should; a file may be slow on a busy machine, a server that says nothing is not worth minutes.
OWN_STORE, SERVER = Patience(15.0, 300.0), Patience(15.0, 60.0)
BROKEN = Patience(2.0, 3.0)  # of one that a signal or an error ended


def tracking_uri(store: Path, uri: str | None = None) -> str:
    """Where runs are recorded: the argument, then `MLFLOW_TRACKING_URI`, then an SQLite file in `store`.

    The argument must be the user's own word; an address that a bundle's file names is none.
    """
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(database(store))


class RunLogger(Logger):
    """The MLflow record of one training run; no call of it fails or waits for the store.

    Args:
        store: folder of the default SQLite file and its artifacts.
        experiment: name of the experiment, one per bundle.
        run_name: such as `fold_0`.
        uri: a tracking server, see `tracking_uri`.
        run_id: an earlier run to continue.
        tags: of a new run.
        system_metrics: also record use of processor, memory and GPU.
        notes_id: whether the run's folder, where there is one, notes the run's id.
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
        notes_id: bool = True,
    ) -> None:
        super().__init__()
        self._tracking_uri = tracking_uri(store, uri)
        destination = Destination(store, self._tracking_uri, experiment, run_name, tags, notes_id)
        self.run_folder = store / run_name
        kept = RunFolder(self.run_folder).untracked if notes_id else None
        self.run = MlflowRun(destination, run_id)
        self.outbox = Outbox(self.run.send, destination.shown, kept)
        self.wants_monitor = system_metrics
        self.patience = OWN_STORE if self._tracking_uri.startswith("sqlite:") else SERVER
        self._name = experiment

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str | None:
        return self.run.run_id

    @property
    def monitor(self) -> object:
        """MLflow's monitor of the machine, while it runs."""
        return self.run.monitor

    @property
    def run_id(self) -> str | None:
        """The run's id; None where the store does not answer."""
        if self.run.run_id is None:
            self.outbox.put(Entry("settings"))
            self.outbox.flush(self.patience)
        return self.run.run_id

    def begin_anew(self) -> None:
        """Forget the earlier run: what comes is another one. To be called before anything is recorded."""
        self.run.earlier = None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.wants_monitor:
            self.wants_monitor = False
            self.outbox.put(Entry("monitor"))
        values = {name: float(value) for name, value in metrics.items()}
        self.outbox.put(Entry("metrics", {"values": values, "step": step}))

    def log_hyperparams(self, params: object, *_: object, **__: object) -> None:
        self.log_once(dict(params) if isinstance(params, dict) else vars(params))

    def log_once(self, settings: dict[str, Any]) -> None:
        """Record settings of the run."""
        self.outbox.put(Entry("settings", {name: _plain(value) for name, value in settings.items()}))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run."""
        self.outbox.put(Entry("file", {"path": str(path), "folder": folder}))

    def log_json(self, name: str, content: dict[str, Any]) -> None:
        """Keep a JSON object with the run."""
        self.outbox.put(Entry("json", {"name": name, "content": content}))

    def finalize(self, status: str = "success") -> None:
        """End the run; a successful one keeps its plan, curves and page."""
        if not self.outbox.pending and not self.outbox.sent:
            return
        if status == "success":
            self.outbox.put(Entry("results"))
        self.outbox.put(Entry("end", {"status": status}))
        self.outbox.close(self.patience if status in ("success", "finished") else BROKEN)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def open_parent(store: Path, experiment: str, *, uri: str | None = None, run_id: str | None = None) -> str | None:
    """Start, or find again, the run under which the runs of the folds are nested; returns its id, None without a store.

    Args:
        store, experiment, uri: as in `RunLogger`.
        run_id: an earlier parent to continue with.
    """
    return _parent(store, experiment, uri, run_id).run_id


def close_parent(
    store: Path, experiment: str, run_id: str, metrics: dict[str, float], *, uri: str | None = None
) -> None:
    """Log the means over the folds and mark the parent run as finished."""
    logger = _parent(store, experiment, uri, run_id)
    logger.log_metrics(metrics)
    logger.finalize("finished")


def _parent(store: Path, experiment: str, uri: str | None, run_id: str | None) -> RunLogger:
    return RunLogger(
        store, experiment=experiment, run_name="all folds", uri=uri, run_id=run_id, system_metrics=False, notes_id=False
    )


def send_leftovers(store: Path, experiment: str, run_name: str, run_id: str | None) -> None:
    """Try again to record what an earlier process could not, see `Outbox`."""
    if not RunFolder(store / run_name).untracked.is_file():
        return
    logger = RunLogger(store, experiment=experiment, run_name=run_name, run_id=run_id, system_metrics=False)
    logger.outbox.close(logger.patience)
