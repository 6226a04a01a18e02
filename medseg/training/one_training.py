"""What the processes of a training settle before its first step: that they train the same thing, and for how long."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed, nn

import medseg
from medseg.config import read_json
from medseg.errors import ConfigError, ResourceError
from medseg.layout import Layout
from medseg.losses import OtherLoss

from .datamodule import SegmentationData
from .module import SegmentationModule

log = logging.getLogger(__name__)
# How the libraries below say that a process is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted",
        "Socket Timeout", "Read error", "Write error", "remote process exited")  # fmt: skip
# Keys of train.json that may differ between machines: where things lie.
PLACES = ("bundle_root", "output_dir", "dataset_dir")


def facts_of(bundle_root: str | Path, module: SegmentationModule, data: SegmentationData) -> dict[str, str]:
    """What must be the same in every process, each as a short hash or text."""
    layout = Layout(Path(bundle_root))
    package = Path(medseg.__file__).parent
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    files = [layout.train, layout.metadata, layout.splits]
    bundle = {path.name: read_json(path) for path in files if path.is_file()}
    train = bundle.get(layout.train.name)
    if isinstance(train, dict):
        bundle[layout.train.name] = {key: value for key, value in train.items() if key not in PLACES}
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    dataset = data.train_dataset
    return {
        "medseg's code": code.hexdigest()[:16],
        "versions": f"medseg {medseg.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "the bundle's files": _hash(bundle),
        "the network": _hash(shapes),
        "the settings": _hash(
            [
                data.batch_size, dataset.samples_per_epoch, dataset.seed, list(dataset.roi_size), module.seed,
                module.micro_batch_size, module.schedule, module.optimizer_settings["learning_rate"],
            ]
        ),
        "the list of cases": _hash([[case.name for case in part.cases] for part in (dataset, data.validation_dataset)]),
        "where it goes on": f"epoch {data.first_epoch}, step {data.first_step}",
    }  # fmt: skip


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def first_difference(facts: Sequence[Mapping[str, str]]) -> str | None:
    """Which process has something else than the first one, and what; None where all agree.

    Args:
        facts: of each process by its number; `host` is where it runs and may differ.
    """
    first = facts[0]
    for number, other in enumerate(facts):
        differing = [name for name in first if name != "host" and other.get(name) != first[name]]
        if differing:
            named = "; ".join(f"{name}: {first[name]} there, {other.get(name)} here" for name in differing)
            return f"process {number} on {other['host']} differs from process 0 on {first['host']} in {named}"
    return None


def explain_lost(error: BaseException) -> ResourceError | None:
    """What it means that the others do not answer any more; None for any other error."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in LOST):
        return None
    reason = " ".join(text.split())[:200]
    return ResourceError(
        f"another process of this training has ended; what it said stands above or in its own log. Go on with --resume ({reason})"
    )


class Together(Callback):
    """Compares the processes of a training, and takes over what the first one decided; nothing to do for one alone.

    Args:
        bundle_root: the bundle.
        data: what is trained on.
        length: how the first process writes what its budget is turned into; None without a budget, or in another process.
        take: called in the other processes with what it wrote.
    """

    def __init__(self, bundle_root: str | Path, data: SegmentationData, length: Any, take: Any) -> None:
        self.bundle_root, self.data, self.length, self.take = bundle_root, data, length, take

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        assert isinstance(module, SegmentationModule)
        share = self.data.share(module.micro_batch_size)
        # Lightning converts after it has loaded a checkpoint, whose float64 would then have gone through float32
        trainer.precision_plugin.convert_module(module)
        module.network = _ready(module.network, trainer, parts=len(share.parts()))
        if trainer.world_size == 1:
            return
        trainer.strategy.barrier()  # files that the first process has just written are there
        mine = facts_of(self.bundle_root, module, self.data) | {"host": socket.gethostname()}
        found: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(found, mine)
        difference = first_difference(found)
        if difference is not None:
            raise ConfigError(
                f"{difference}. All processes of a training need the same code, bundle and cases: install the same version "
                "on all machines, and put bundle and data where all of them see them"
            )
        length = trainer.strategy.broadcast(self.length)
        if length is not None and not trainer.is_global_zero:
            self.take(length)
        if isinstance(module.loss.loss, OtherLoss) and not module.loss.loss.knows_all:
            log.warning(
                "loss %s is computed by each process from its own samples, and the mean is taken: where it is no mean over "
                "samples, another number of devices is another training", type(module.loss.loss.loss).__name__,
            )  # fmt: skip


def _ready(network: nn.Module, trainer: pl.Trainer, *, parts: int) -> nn.Module:
    """The network as several processes can train it: batch norms take their statistics over all of them.

    Raises:
        ConfigError: batch norm with several processes on CPUs, which torch cannot.
    """
    norms = [name for name, one in network.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return network
    if trainer.world_size > 1 and trainer.strategy.root_device.type != "cuda":
        raise ConfigError(
            f"the network has {len(norms)} batch norms ({norms[0]}, ...), whose statistics several processes on CPUs cannot "
            "share: torch has that for GPUs only; take network_def::norm=instance, or one process (devices=1)"
        )
    if parts > 1:
        log.warning(
            "the network has batch norms, and a step's samples are taken in %d parts: each part is normalised by itself, so "
            "that another micro_batch_size is another training", parts,
        )  # fmt: skip
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if trainer.world_size > 1 else network
