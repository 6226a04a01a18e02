"""Training crops and validation volumes for Lightning."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from medseg.errors import ConfigError, DataError, MedsegError
from medseg.io.datalist import Case
from medseg.io.store import Store, StoredArrays
from medseg.planning.folds import list_cases
from medseg.transforms.classes import class_values
from medseg.transforms.crops.augmentation import apply, draw, spare_missing
from medseg.transforms.crops.device_augmentation import cut_box, finish_crops
from medseg.transforms.crops.sampling import SampleKey, draw_case, draw_center
from medseg.transforms.preprocessing import Preprocessing

from .data_record import Record, record_of
from .prepare import preprocess_case
from .processes import is_first_here
from .progress import progress_bar
from .supervision import Watch

log = logging.getLogger(__name__)


class CaseDataset(Dataset[dict[str, Any]]):
    """What training and validation share: the cases of one part of a fold, preprocessed once into the store.

    Args:
        part: `train` or `val`.
        preprocessing: the object that the predictor reuses.
        labels: label value -> name, background included.
        data: cases as [{"image": path or paths, "label": path}], for callers that bring their own list; else None.
        dataset_dir, bundle_root, fold: where the cases and `configs/splits.json` come from when `data` is None.
        ignore_label: value of voxels that were not annotated, or None.
        missing_channels: `zero` trains cases that lack a channel, `error` refuses them.
    """

    part = "train"

    def __init__(
        self,
        preprocessing: Preprocessing,
        labels: Mapping[Any, str],
        *,
        data: Sequence[Mapping[str, Any]] | None = None,
        dataset_dir: str = "",
        bundle_root: str = ".",
        fold: int = 0,
        ignore_label: int | None = None,
        missing_channels: str = "error",
    ) -> None:
        self.missing_channels = missing_channels
        self.preprocessing = preprocessing
        self.labels = {int(value): name for value, name in labels.items()}
        self.data = data
        self.ignore_label = ignore_label
        self.source = (dataset_dir, bundle_root, fold)
        self.values = class_values(self.labels)
        self._cases: list[Case] | None = None
        self._arrays: list[StoredArrays] = []

    @property
    def cases(self) -> list[Case]:
        if self._cases is None:
            dataset_dir, bundle_root, fold = self.source
            self._cases = list_cases(
                self.part, self.data, dataset_dir, Path(bundle_root), fold, missing_channels=self.missing_channels
            )
        return self._cases

    def prepare(self) -> None:
        """Preprocess what the store does not hold yet; cases that share an image grid are checked on the way."""
        store = self._store()
        build = preprocess_case(self.preprocessing, self.labels, ignore_label=self.ignore_label)
        with progress_bar(f"preprocessing {self.part}", len(self.cases), unit="case") as advance:
            if is_first_here():
                store.ensure_all(self.cases, build, workers=os.cpu_count() or 1, progress=lambda done, _: advance(done))
            else:
                store.await_all(self.cases, build, progress=lambda done, _: advance(done))

    def report(self) -> dict[str, Any]:
        """What preparation found: the cases, the channels that some of them lack, and how odd headers were read.

        What it refuses is no part of it: that ends the training with an error.
        """
        gaps = {case.name: list(case.missing) for case in self.cases if case.missing}
        if gaps:
            names = ", ".join(list(gaps)[:5]) + (", ..." if len(gaps) > 5 else "")
            log.warning(
                "%s: %d of %d cases lack channels, zeros in their place: %s",
                self.part,
                len(gaps),
                len(self.cases),
                names,
            )
        found = {
            case.name: arrays.properties.get("repairs") for case, arrays in zip(self.cases, self._arrays, strict=True)
        }
        repairs = {name: sentences for name, sentences in found.items() if sentences}
        return {"cases": [case.name for case in self.cases], "missing_channels": gaps, "repairs": repairs}

    def open(self) -> None:
        """Map the stored arrays of every case."""
        store = self._store()
        self._arrays = [store.open(case) for case in self.cases]

    def _store(self) -> Store:
        recipe: dict[str, Any] = {"preprocessing": self.preprocessing.to_dict(), "ignore_label": self.ignore_label}
        if self.values != tuple(range(len(self.values))):
            recipe["classes"] = list(self.values)  # class numbers are stored; without gaps they are the values
        return Store(recipe)

    def present(self, case: Case) -> Tensor:
        """(K,) boolean: the classes that the case's annotation declares."""
        declared = case.labels_present  # not from the store: the list may be corrected after the voxels were stored
        mask = torch.ones(len(self.values), dtype=torch.bool)
        if declared is not None:
            mask[:] = False
            mask[[0, *(self.values.index(value) for value in declared)]] = True
        return mask


class TrainingDataset(CaseDataset):
    """Augmented crops; item `epoch * samples_per_epoch + index` depends on (seed, epoch, index) alone.

    Args:
        roi_size: voxels of a crop.
        samples_per_epoch: crops per epoch over all processes.
        augmentation: settings of `medseg.transforms.crops.augmentation.draw`.
        seed: of every draw.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        labels: Mapping[Any, str],
        roi_size: Sequence[int],
        *,
        samples_per_epoch: int,
        augmentation: Mapping[str, Any] | None = None,
        seed: int = 0,
        **source: Any,
    ) -> None:
        super().__init__(preprocessing, labels, **source)
        self.roi_size = tuple(int(size) for size in roi_size)
        self.samples_per_epoch, self.seed = samples_per_epoch, seed
        self.augmentation = dict(augmentation or {})
        self.watch = Watch(0)
        self.on_device = False  # `SegmentationData.augment_on` decides

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, item: int) -> dict[str, Any]:
        epoch, index = divmod(int(item), self.samples_per_epoch)
        key = SampleKey(self.seed, epoch, index)
        number = draw_case(key, len(self.cases), self.samples_per_epoch)
        case, arrays = self.cases[number], self._arrays[number]
        with self.watch.reading(number):
            try:
                return self._sample(key, case, arrays)
            except Exception as error:
                raise DataError(
                    f"case {case.name!r}: cannot make a training crop: {type(error).__name__}: {error}"
                ) from error

    def _sample(self, key: SampleKey, case: Case, arrays: StoredArrays) -> dict[str, Any]:
        source, source_label = arrays.image, arrays.label
        assert source_label is not None
        slices = len(self.roi_size) == 2
        extent = (*self.roi_size, 1) if slices else self.roi_size
        center = draw_center(key, source.shape[1:], extent, arrays.foreground)
        if slices:  # a crop of the slice that was drawn
            number = round(center[2])
            source, source_label, center = source[..., number], source_label[..., number], center[:2]
        parameters = draw(key.generator(2), self.roi_size, source.shape[0], **self.augmentation)
        parameters = spare_missing(parameters, arrays.properties.get("missing_channels", ()))
        if self.on_device:
            box = cut_box(source, source_label, center, self.roi_size, parameters)
            return {"box": box, "present": self.present(case), "name": case.name}
        image, label = apply(source, source_label, center, self.roi_size, parameters)
        return {
            "image": torch.as_tensor(image),
            "label": torch.as_tensor(np.asarray(label, dtype=np.int64))[None],
            "present": self.present(case),
            "name": case.name,
        }


class ValidationDataset(CaseDataset):
    """Whole preprocessed volumes; a number past the last case is a repeat, so that all processes hold equally many."""

    part = "val"

    def __len__(self) -> int:
        return len(self.cases)

    def shape(self, index: int) -> tuple[int, ...]:
        """Voxels (X, Y, Z) of a case on the network's grid."""
        return tuple(int(size) for size in self._arrays[index].image.shape[1:])

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = index % len(self.cases)
        arrays = self._arrays[case]
        assert arrays.label is not None
        return {
            "image": torch.from_numpy(np.array(arrays.image)),
            "label": torch.from_numpy(np.array(arrays.label, dtype=np.int64))[None],
            "present": self.present(self.cases[case]),
            "name": self.cases[case].name,
            "repeat": index >= len(self.cases),
        }


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
        batch_size: crops per step and process.
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
        self.train_dataset.on_device = self.augmentation_device == "device" or (
            self.augmentation_device == "auto" and device.type == "cuda"
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Make the crops of a batch of source boxes, on the device that they were moved to."""
        if "box" not in batch:
            return batch
        image, label = finish_crops(batch["box"])
        return {"image": image, "label": label, "present": batch["present"], "name": batch["name"]}

    def _world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world_size = self._world()
        sampler = EpochSampler(len(self.train_dataset), rank=rank, world_size=world_size)
        sampler.set_epoch(self.first_epoch)
        sampler.behind = (self.first_epoch, self.first_step * self.batch_size)
        self.train_dataset.watch = Watch(self.num_workers)
        return DataLoader(
            self.train_dataset,
            batch_size=self.batch_size,
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
