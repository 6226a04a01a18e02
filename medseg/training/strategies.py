"""How many processes train together, who starts them, and how the network lies on their devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.plugins import DoublePrecision
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy

from medseg.errors import ConfigError, nearest
from medseg.ranks import started_by_srun

from .fsdp2 import Fsdp2Strategy

STRATEGIES = ("auto", "ddp", "fsdp2")
# What Lightning offers and this package has not tried; a bundle may still name it.
LIGHTNINGS = ("ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "fsdp")


@dataclass(frozen=True)
class Processes:
    """Who trains together.

    Args:
        devices: of each node: a number, or a list with the one device of a training that is alone.
        num_nodes: machines.
    """

    devices: Any
    num_nodes: int = 1

    @classmethod
    def of(cls, device: torch.device, devices: object, num_nodes: int | None) -> Processes:
        """What was asked for; where torchrun or srun has started several, as many as they are.

        Raises:
            ConfigError: another number was asked for than was started, or than the machine has devices.
        """
        started = _started()
        if started is not None:
            _agree("devices", devices, started.devices)
            _agree("num_nodes", num_nodes, started.num_nodes)
            return started
        if devices is None:
            devices = [device.index or 0] if device.type == "cuda" else 1
        elif devices == "auto":
            devices = torch.cuda.device_count() if device.type == "cuda" else 1
        elif device.type == "cuda" and isinstance(devices, int) and devices > torch.cuda.device_count():
            raise ConfigError(f"devices is {devices}; this machine has {torch.cuda.device_count()}")
        return cls(devices, int(num_nodes or 1))

    @property
    def count(self) -> int:
        """Of the whole training."""
        return self.num_nodes * (len(self.devices) if isinstance(self.devices, list) else int(self.devices))

    def environment(self) -> list[Any]:
        """One process that is alone whatever SLURM's variables say: Lightning would count SLURM_NTASKS against one device."""
        if self.count > 1 or "LOCAL_WORLD_SIZE" in os.environ or not SLURMEnvironment.detect():
            return []
        return [LightningEnvironment()]


def _started(variables: Mapping[str, str] = os.environ) -> Processes | None:
    """What torchrun or srun has started; None where nobody has."""
    if variables.get("LOCAL_WORLD_SIZE"):
        local = int(variables["LOCAL_WORLD_SIZE"])
        return Processes(local, max(1, int(variables.get("WORLD_SIZE") or local) // local))
    if started_by_srun(variables):
        nodes = int(variables.get("SLURM_STEP_NUM_NODES") or variables.get("SLURM_NNODES") or 1)
        return Processes(int(variables["SLURM_STEP_NUM_TASKS"]) // nodes, nodes)
    return None


def _agree(key: str, asked: object, started: int) -> None:
    asked = len(asked) if isinstance(asked, list) else asked
    if asked in (None, "auto", started):
        return
    raise ConfigError(
        f"{key} is {asked}, and this training was started with {started}: by torchrun (--nproc_per_node, --nnodes) or srun "
        f"(--ntasks-per-node, --nodes); leave {key} out, or start as many"
    )


def make_strategy(name: object, processes: Processes) -> str | Strategy:
    """Lightning's strategy for a word of train.json.

    Raises:
        ConfigError: no such word.
    """
    if isinstance(name, Strategy):
        return name
    known = (*STRATEGIES, *LIGHTNINGS)
    if name not in known:
        raise ConfigError(f"strategy is {name!r}. {nearest(str(name), STRATEGIES)}")
    if name == "fsdp2":
        return Fsdp2Strategy(processes.count)
    if name == "ddp" or (name == "auto" and processes.count > 1):
        return DDPStrategy(gradient_as_bucket_view=True)
    return str(name)


def precision_settings(strategy: str | Strategy, precision: object) -> dict[str, Any]:
    """How the trainer is told the precision.

    Raises:
        ConfigError: one that sharded training cannot have.
    """
    if not isinstance(strategy, Fsdp2Strategy):
        return {"precision": precision}
    if precision in ("64-true", "64"):  # Lightning knows it for other strategies only; nothing in it depends on them
        return {"plugins": [DoublePrecision()]}
    if precision == "16-mixed":
        raise ConfigError(
            "strategy fsdp2 trains in bf16-mixed or 32-true, not in 16-mixed; set train::trainer::precision=32-true"
        )
    return {"precision": precision}
