"""The Lightning trainer of a bundle's train.json, as a function with our settings around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from medseg.devices import choose_device
from medseg.errors import ConfigError
from medseg.inference.windows.heap import keep_freed_memory
from medseg.layout import Layout
from medseg.ranks import is_helper

from .budget_keeper import KeepBudget
from .callbacks import Curves, Ema, LastCheckpoint, Progress, ValidateLast
from .checkpoint_io import AtomicCheckpointIO
from .early_stop import EarlyStop
from .fsdp2 import Gathered
from .initialize import load_matching
from .pace import Pace
from .run_files import RunFiles
from .stop import StopOnSignal
from .strategies import Processes, make_strategy, precision_settings

log = logging.getLogger(__name__)
# Where Lightning would do its own: checkpoints, samplers, bars and a validation before the first step are ours or not wanted.
OWN_WAYS: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "log_every_n_steps": 10,
}


def run_folder(bundle_root: str | Path, fold: int) -> Path:
    return Layout(Path(bundle_root)).run_folder(fold)


def choose_precision(device: torch.device, precision: str = "auto") -> Any:
    """Lightning's word for the precision: bf16 where the hardware multiplies it, fp16 on older GPUs, else fp32.

    On a CPU with bf16 instructions (two cores, AVX-512 BF16) a training step of mambavision nano took about half the time of
    fp32; on one without them bf16 is slower, so that the flag is asked first.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16-mixed"
    return "32-true"


def cpu_has_bf16() -> bool:
    """True where the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX)."""
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(probe is not None and probe() for probe in probes)


def make_trainer(
    max_epochs: int,
    *,
    bundle_root: str = ".",
    fold: int = 0,
    device: object = "auto",
    devices: object = None,
    num_nodes: int | None = None,
    strategy: str = "auto",
    precision: str = "auto",
    val_interval: int = 1,
    gradient_clip: float | None = 1.0,
    ema_decay: float | None = None,
    early_stop: int | None = None,
    train_handlers: Sequence[Any] = (),
    experiment: str = "medseg",
    tracking: bool = True,
    tracking_uri: str | None = None,
    parent_run: str | None = None,
    **trainer_settings: object,
) -> pl.Trainer:
    """A Lightning trainer that checkpoints, records and reports.

    Args:
        max_epochs: epochs of `steps_per_epoch` steps.
        bundle_root, fold: the run goes to `BUNDLE/runs/fold_N`.
        device: word or `torch.device`, see `medseg.devices.choose_device`.
        devices: of each machine, which share a step's batch; null is one, or as many as torchrun or srun has started; `auto`
            is all of them.
        num_nodes: machines.
        strategy: `ddp` (each device has the whole network), `fsdp2` (each a share of it), or `auto`, which is ddp.
        precision: `auto` or one of Lightning's words.
        val_interval: epochs between validations on whole volumes; the last epoch is validated in any case.
        gradient_clip: largest gradient norm, or None.
        ema_decay: exponential average of the weights, used for validation and as the result; None for none.
        early_stop: validations without a better mean Dice after which training ends; None trains to the end.
        train_handlers: accepted since MONAI's tools put handlers here; an MLflow handler's address and a checkpoint loader's
            weights are taken over, other Ignite handlers cannot run under Lightning and are named in a warning.
        tracking, experiment: MLflow record, see `medseg.tracking.mlflow_logger`.
        tracking_uri: accepted and not used: a bundle's file must not choose where records go.
        parent_run: id of the MLflow run that this one is nested under.
        trainer_settings: any other argument of `pytorch_lightning.Trainer`.

    Raises:
        ConfigError: `max_epochs` is not positive, a setting of Lightning's would write to or fetch from elsewhere or take the
            batch apart, or devices and strategy do not fit the machine.
    """
    if int(max_epochs) < 1:
        raise ConfigError(f"max_epochs is {max_epochs}; expected at least 1")
    _quieten()
    chosen = device if isinstance(device, torch.device) else choose_device(str(device))
    if chosen.type == "cpu":
        keep_freed_memory()
    _refuse_addresses(trainer_settings)
    _refuse_accumulation(trainer_settings)
    if tracking_uri is not None:
        log.warning("the tracking address of train.json is not used; set MLFLOW_TRACKING_URI to record runs elsewhere")
    folder, uri = run_folder(bundle_root, fold), _take_over(train_handlers)
    processes = Processes.of(chosen, devices, num_nodes)
    way = make_strategy(strategy, processes)
    if ema_decay and strategy == "fsdp2":
        raise ConfigError(
            "ema_decay averages whole weights, and strategy fsdp2 shares them out; take ddp, or ema_decay=null"
        )
    typed = precision_settings(way, choose_precision(chosen, precision))
    settings: dict[str, Any] = {
        "max_epochs": int(max_epochs),
        "accelerator": {"cuda": "gpu", "mps": "mps"}.get(chosen.type, "cpu"),
        "devices": processes.devices,
        "num_nodes": processes.num_nodes,
        "strategy": way,
        **typed,
        "check_val_every_n_epoch": max(1, int(val_interval)),
        "gradient_clip_val": gradient_clip,
        "logger": tracking and _logger(Path(bundle_root), folder, fold, experiment, uri, parent_run),
        "callbacks": _callbacks(folder, ema_decay, early_stop) + ([Gathered()] if strategy == "fsdp2" else []),
        "plugins": [AtomicCheckpointIO(), *processes.environment(), *typed.get("plugins", [])],
        "default_root_dir": str(folder),
    }
    return pl.Trainer(**{**OWN_WAYS, **settings, **trainer_settings})


def _refuse_addresses(settings: Mapping[str, Any]) -> None:
    """Lightning hands places to fsspec, which takes any address; where runs go is not for a bundle to say."""
    for key, value in settings.items():
        if key == "default_root_dir" or (isinstance(value, str) and "://" in value):
            raise ConfigError(f"train::trainer::{key} is {value!r}: a bundle's runs lie in its folder; leave it out")
        if key == "logger" and not isinstance(value, bool):
            raise ConfigError(
                "train::trainer::logger is set; runs are recorded with MLflow: `tracking`, MLFLOW_TRACKING_URI"
            )


def _refuse_accumulation(settings: Mapping[str, Any]) -> None:
    if settings.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "train::trainer::accumulate_grad_batches would train on several small batches, each with a Dice of its own, as one "
            "step; set batch_size to all samples of a step, and micro_batch_size to those that a device holds at once"
        )


def _callbacks(folder: Path, ema_decay: float | None, early_stop: int | None) -> list[Any]:
    callbacks: list[Any] = [Curves(folder), KeepBudget(folder), RunFiles(folder), LastCheckpoint(folder)]
    callbacks += [Progress(), ValidateLast(), Pace(), StopOnSignal(folder)]
    if ema_decay:
        callbacks.insert(0, Ema(float(ema_decay)))
    if early_stop is not None:
        callbacks.insert(0, EarlyStop(early_stop))
    return callbacks


def _quieten() -> None:
    """Lightning advertises itself at every start and warns of settings that we chose on purpose."""
    for name in ("pytorch_lightning", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "isinstance.treespec",
        "does not have many workers",
        "Checkpoint directory",
        "You defined a `validation_step`",
        "your dataloader is not resumable",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{text}.*")


def _take_over(handlers: Sequence[Any]) -> str | None:
    """Do what MONAI's tools ask for by Ignite handlers: the weights to start from, and the tracking address.

    Returns:
        The address of an MLflow handler, or None.
    """
    uri = None
    for handler in handlers:
        client = getattr(handler, "client", None)
        address = getattr(handler, "tracking_uri", None) or getattr(client, "tracking_uri", None)
        if address:
            uri = str(address)
        elif hasattr(handler, "load_path") and hasattr(handler, "load_dict"):
            for network in handler.load_dict.values():
                everything = () if getattr(handler, "strict", False) else ("",)  # as MONAI's handler was told
                load_matching(network, Path(handler.load_path), partial=everything)
        else:
            log.warning("train handler %s is ignored: Lightning trains this bundle, not Ignite", type(handler).__name__)
    return uri


def _logger(
    bundle_root: Path, folder: Path, fold: int, experiment: str, uri: str | None, parent_run: str | None
) -> Any:
    """The run's record; the first process's only, since two that make one SQLite store at the same moment break it."""
    if is_helper():
        return False
    from medseg.tracking.mlflow_logger import RunLogger
    from medseg.tracking.run_record import read_run_id

    return RunLogger(
        Layout(Path(bundle_root)).runs,
        experiment=experiment,
        run_name=folder.name,
        uri=uri,
        run_id=read_run_id(folder),
        tags={"mlflow.parentRunId": parent_run} if parent_run else None,
    )
