"""FSDP2: every process holds a share of the weights and moments, and gathers a block's weights while it runs.

Lightning's `ModelParallelStrategy` with torch's `fully_shard`; checkpoints are one file, with the same content as those of one
process, so that a training goes on with any number of processes and any strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from medseg.networks.stages import ConvStage, TokenStage

from .checkpoint_io import AtomicCheckpointIO

# Blocks of fewer weights go with their neighbours: gathering them alone costs more time than it saves memory.
LEAST_WEIGHTS = 100_000


class Fsdp2Strategy(ModelParallelStrategy):
    """Shards the network of a `SegmentationModule`.

    Args:
        processes: over which it is sharded.
        least_weights: of a block that is sharded by itself.
    """

    def __init__(self, processes: int, *, least_weights: int = LEAST_WEIGHTS) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.least_weights = least_weights

    def setup_environment(self) -> None:
        module = self.lightning_module
        assert module is not None

        def configure_model() -> None:
            if not sharded_parts(module):
                self.precision_plugin.convert_module(module)
                shard(module.network, self.device_mesh["data_parallel"], least_weights=self.least_weights)

        module.configure_model = configure_model  # Lightning shards nothing without it
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: object, weights_only: bool | None = None) -> dict[str, Any]:
        AtomicCheckpointIO().load_checkpoint(checkpoint_path, map_location="meta")  # what is wrong with it is told
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(network: nn.Module, mesh: Any, *, least_weights: int = LEAST_WEIGHTS) -> None:
    """Share out a network's weights over a mesh of devices: block by block from the inside, the rest with the whole."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks_of(network, least_weights):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    # the network is called by more than one door
    for door in ("forward_scales", "forward_features"):
        if hasattr(network, door):
            torch.distributed.fsdp.register_fsdp_forward_method(network, door)


def blocks_of(network: nn.Module, least_weights: int = LEAST_WEIGHTS) -> list[nn.Module]:
    """The sub-layers of a network's stages that are worth a gathering of their own; none of a network that is not ours.

    What is inside a sub-layer is not taken apart: some of it reads weights of its parts without calling them.
    """
    stages = [one for one in network.modules() if isinstance(one, ConvStage | TokenStage)]
    layers = [layer for stage in stages for layer in stage.layers]
    return [layer for layer in layers if _weights(layer) >= least_weights]


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sharded_parts(module: nn.Module) -> list[Any]:
    """The sharded modules inside a module, itself included."""
    from torch.distributed.fsdp import FSDPModule

    return [one for one in module.modules() if isinstance(one, FSDPModule)]


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """All weights in every process, for calls that the processes make different numbers of, such as windows of their cases."""
    parts = sharded_parts(module)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


class Gathered(Callback):
    """Holds all weights in every process while whole volumes are validated."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._open.enter_context(gathered(module))

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._open.close()
