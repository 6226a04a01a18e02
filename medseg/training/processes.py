"""Which process of a training this is, and the claim that keeps a second start away from a living run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from medseg.io.locks import claimed
from medseg.layout import Layout


def is_first_here() -> bool:
    """Whether this is the first process of its training on this machine; the others wait for what it prepares."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) == 0


def is_helper() -> bool:
    """Whether torchrun or Lightning started this process beside a first one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) != 0


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
