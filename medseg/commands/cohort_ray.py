"""Workers of a cohort as actors of Ray, one per device, on this machine or on a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from medseg.cases.batch import CaseResult
from medseg.cases.cohort import Died, Worker
from medseg.errors import ConfigError, ResourceError
from medseg.io import Case

from .cohort_worker import CaseWorker, Order, of_answer

log = logging.getLogger(__name__)
ANSWER_S = 30.0  # of an address


def parse_workers(text: str) -> str | None:
    """The address in `ray=ADDRESS`; None for `ray`, which starts workers on this machine.

    Raises:
        ConfigError: another word, or Ray is not installed.
    """
    engine, equals, address = text.partition("=")
    if engine != "ray" or (equals and not address):
        raise ConfigError(
            f"--workers {text!r}: expected ray, or ray=ADDRESS such as ray=10.0.0.1:6379; a cluster without Ray takes "
            "`medseg cluster slurm`"
        )
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--workers ray needs the package ray: pip install 'medseg[ray]'")
    return address or None


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start one on this machine.

    Raises:
        ResourceError: nobody answers there, or it is no Ray.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if ray.is_initialized():
        return
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    _refuse_silent(address)
    problem: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, **quiet)
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if thread.is_alive() or problem:
        why = "it does not answer as Ray does" if not problem else " ".join(str(problem[0]).split())[:200]
        raise ResourceError(f"--workers ray={address}: {why}; give the address that `ray start --head` printed")


def _refuse_silent(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise ConfigError(f"--workers ray={address}: expected HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ResourceError(
            f"--workers ray={address}: no Ray answers there ({error.strerror or error}); start one with `ray start --head`, or "
            "leave the address out to work on this machine"
        ) from error


class RayWorker:
    """An actor, and the call that it works on."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.call = actor, None

    def give(self, case: Case, ahead: Case | None) -> None:
        self.call = self.actor.run.remote(case, ahead)

    def end(self) -> None:
        import ray

        ray.kill(self.actor)


class RayPool:
    """One actor per GPU; without any, one per `threads` cores.

    Args:
        order: what the actors do.
        on_gpus: whether a GPU is wanted where there is one.
        size: actors; None counts devices.
    """

    def __init__(self, order: Order, *, on_gpus: bool, size: int | None = None) -> None:
        import ray

        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0)) if on_gpus else 0
        threads = order.threads or 1
        self.size = size or gpus or max(1, int(found.get("CPU", 1)) // threads)
        options: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": threads}
        # no restarts of Ray's own: a case that ends its process would be tried without limit
        self._make = ray.remote(CaseWorker).options(max_restarts=0, max_task_retries=0, **options)
        self._order = ray.put(order)
        self._workers: list[RayWorker] = []

    def start(self) -> RayWorker:
        worker = RayWorker(self._make.remote(self._order))
        self._workers.append(worker)
        return worker

    def wait(self, workers: Sequence[Worker], timeout_s: float) -> list[tuple[Worker, CaseResult | Died]]:
        import ray

        mine = {worker.call: worker for worker in workers if isinstance(worker, RayWorker)}
        ready, _ = ray.wait(list(mine), num_returns=1, timeout=timeout_s)
        said: list[tuple[Worker, CaseResult | Died]] = []
        for call in ready:
            worker = mine[call]
            try:
                said.append((worker, of_answer(ray.get(call))))
            except ray.exceptions.RayActorError as error:
                self._workers.remove(worker)
                said.append((worker, Died(_how_it_ended(error))))
            except ray.exceptions.RayTaskError as error:  # a fault of ours; its device is wanted for the next one
                worker.end()
                self._workers.remove(worker)
                said.append((worker, Died(f"{type(error.cause).__name__}: {error.cause}")))
            worker.call = None
        return said

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


def _how_it_ended(error: Exception) -> str:
    text = " ".join(str(error).split())
    cause = text.partition("The actor died because")[2] or text
    return f"its worker died{': ' if cause else ''}{cause[:200].strip()}"


def leave() -> None:
    """Leave the cluster; one that was started here ends."""
    import ray

    ray.shutdown()
