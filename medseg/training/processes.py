"""What the processes of one training owe each other: one claim on the run, and one end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from medseg.errors import MedsegError
from medseg.io.locks import claimed
from medseg.layout import Layout
from medseg.ranks import is_helper, local_rank, rank

LOOK_S = 2.0  # between two looks at the process that started this one


def is_first_here() -> bool:
    """Whether this is the first process of its training on this machine; the others wait for what it prepares."""
    return local_rank() == 0


@contextlib.contextmanager
def claim_run(bundle_root: str | Path, fold: int) -> Iterator[None]:
    """Train a fold as the only training of it; the processes of one training count as one.

    Raises:
        ResourceError: another training of the fold lives, here or on another machine.
    """
    if is_helper() or getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    root = Path(bundle_root)
    remedy = "wait for it or end it, or train another fold with --fold"
    with claimed(Layout(root).run_claim(fold), f"{root}: fold {fold}", remedy):
        yield


@contextlib.contextmanager
def of_process() -> Iterator[None]:
    """What a helper cannot do is told with its number and machine: there a disk may be missing that the first one has."""
    try:
        yield
    except MedsegError as error:
        if not is_helper():
            raise
        text = str(error.args[0]) if error.args else str(error)
        raise type(error)(f"process {rank()} on {socket.gethostname()}: {text}") from error


def end_with_starter() -> None:
    """End this process once the one that started it is gone: what it was part of is over, and nobody else would end it.

    Lightning's first process and torchrun's agent start the others; SLURM ends its own tasks. One look every two seconds.
    """
    started = is_helper() or "TORCHELASTIC_RUN_ID" in os.environ
    if not started or not hasattr(os, "getppid") or any(one.name == "starter" for one in threading.enumerate()):
        return
    starter = os.getppid()

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="starter", daemon=True).start()
