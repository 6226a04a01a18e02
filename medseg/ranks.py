"""Which process of a training this is, by the variables that torchrun, Lightning and SLURM set before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping


def started_by_srun(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several tasks of an `srun` step.

    `SLURM_NTASKS` says what the job asked for and stands in the batch script too, which is one process; the step's own number
    stands only in what srun started.
    """
    return int(variables.get("SLURM_STEP_NUM_TASKS") or 1) > 1 and "SLURM_PROCID" in variables


def rank(variables: Mapping[str, str] = os.environ) -> int:
    """Number of this process among all of its training; 0 where it is alone or the first."""
    if variables.get("RANK"):
        return int(variables["RANK"])
    if started_by_srun(variables):
        return int(variables["SLURM_PROCID"])
    # Lightning's own start: one machine, or several whose number it was told
    return int(variables.get("NODE_RANK") or 0) * 1_000_000 + local_rank(variables)


def local_rank(variables: Mapping[str, str] = os.environ) -> int:
    """Number of this process among those of its training on this machine."""
    if variables.get("LOCAL_RANK"):
        return int(variables["LOCAL_RANK"])
    if started_by_srun(variables):
        return int(variables.get("SLURM_LOCALID") or 0)
    return int(variables.get("RANK") or 0)


def is_helper(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether this process works beside a first one, which speaks and writes for all."""
    return rank(variables) != 0


def several_started(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether the processes of this training run already; Lightning starts its own only when the training begins."""
    return int(variables.get("WORLD_SIZE") or 1) > 1 or started_by_srun(variables)
