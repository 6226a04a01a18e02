"""Training crops and validation volumes for Lightning."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from medseg.errors import ConfigError, MedsegError
from medseg.transforms.crops.device_augmentation import finish_crops

from .case_datasets import CaseDataset as CaseDataset
from .case_datasets import TrainingDataset, ValidationDataset
from .data_record import Record, record_of
from .shares import Share
from .supervision import Watch

log = logging.getLogger(__name__)


class EpochSampler(Sampler[int]):
    """Item numbers of one epoch, each process its share; Lightning calls `set_epoch` before each epoch.

    `behind` is an epoch and how many items of it a process leaves out: those of the steps that a continued run has done.
    """

    def __init__(self, samples_per_epoch: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.samples_per_epoch, self.rank, self.world_size = samples_per_epoch, rank, world_size
        self.epoch = 0
        self.behind = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples_per_epoch // self.world_size

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.samples_per_epoch
        skipped = self.behind[1] if self.epoch == self.behind[0] else 0
        begin, end = first + self.rank + skipped * self.world_size, first + len(self) * self.world_size
        return iter(range(begin, end, self.world_size))


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of samples; source boxes differ in size and stay a list."""
    batch: dict[str, Any] = default_collate([{k: v for k, v in item.items() if k != "box"} for item in items])
    return batch | ({"box": [item["box"] for item in items]} if "box" in items[0] else {})


class SegmentationData(pl.LightningDataModule):
    """Loaders of one fold.

    Args:
        train_dataset, validation_dataset: see above.
        batch_size: crops per step, over all processes: one plan is one training on any number of devices.
        num_workers: loader processes; None takes none on one or two cores (the network uses them), else all but one, at
            most 12.
        augmentation_device: `auto` augments on the GPU where one trains, `cpu` never does, `device` always does.

    Raises:
        ConfigError: another augmentation_device.
    """

    def __init__(
        self,
        train_dataset: TrainingDataset,
        validation_dataset: ValidationDataset,
        *,
        batch_size: int,
        num_workers: int | None = None,
        augmentation_device: str = "auto",
    ) -> None:
        super().__init__()
        if augmentation_device not in ("auto", "cpu", "device"):
            raise ConfigError(f"augmentation_device is {augmentation_device!r}; expected auto, cpu or device")
        self.augmentation_device = augmentation_device
        self.train_dataset, self.validation_dataset = train_dataset, validation_dataset
        self.batch_size = batch_size
        self._prepared = False
        # Lightning tells the sampler its epoch after it has started the loader, whose processes fetch at once: without this a
        # continued run would begin with the crops of epoch 0.
        self.first_epoch, self.first_step = 0, 0
        cores = os.cpu_count() or 1
        self.num_workers = num_workers if num_workers is not None else (0 if cores <= 2 else min(12, cores - 1))

    def prepare_data(self) -> None:
        """Preprocess what is missing; Lightning asks again at the start of `fit`."""
        if not self._prepared:
            self.train_dataset.prepare()
            self.validation_dataset.prepare()
            self._prepared = True

    @cached_property
    def record(self) -> Record:
        """What `data_record.record_of` says of the cases."""
        return record_of(self.train_dataset.cases, self.validation_dataset.cases)

    def setup(self, stage: str | None = None) -> None:
        self.train_dataset.open()
        self.validation_dataset.open()

    def augment_on(self, device: torch.device) -> None:
        """Decide where crops are augmented; to be called before the loader starts."""
        wanted = self.augmentation_device == "device" or (self.augmentation_device == "auto" and device.type == "cuda")
        self.train_dataset.on_device = wanted and self.train_dataset.augmentation.transform is None

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Make the crops of a batch of source boxes, on the device that they were moved to."""
        if "box" not in batch:
            return batch
        image, label = finish_crops(batch["box"])
        return {"image": image, "label": label, "present": batch["present"], "name": batch["name"]}

    def _world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def share(self, at_once: int | None = None) -> Share:
        """What this process has of every step. Raises ConfigError where the processes cannot take equally many samples."""
        rank, processes = self._world()
        return Share(self.batch_size, rank, processes, at_once)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        share = self.share()
        sampler = EpochSampler(len(self.train_dataset), rank=share.rank, world_size=share.processes)
        sampler.set_epoch(self.first_epoch)
        sampler.behind = (self.first_epoch, self.first_step * share.samples)
        self.train_dataset.watch = Watch(self.num_workers)
        return DataLoader(
            self.train_dataset,
            batch_size=share.samples,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )

    def explain(self, error: BaseException) -> MedsegError | None:
        """The death or the error of a loader process with the case it was at; None for any other error."""
        return self.train_dataset.watch.explain(error, [case.name for case in self.train_dataset.cases])

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world_size = self._world()
        rounds = -(-len(self.validation_dataset) // world_size)
        indices = list(range(rank, rounds * world_size, world_size))
        return DataLoader(self.validation_dataset, batch_size=1, sampler=indices, num_workers=0)
