"""The cases of one part of a fold: augmented crops to train on, whole volumes to validate on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medseg.bars import progress_bar
from medseg.errors import ConfigError, DataError
from medseg.io.datalist import Case
from medseg.io.store import Store, StoredArrays
from medseg.planning.folds import list_cases, read_splits
from medseg.transforms.classes import class_values
from medseg.transforms.crops.augmentation import apply, draw, spare_missing
from medseg.transforms.crops.device_augmentation import cut_box
from medseg.transforms.crops.sampling import SampleKey, Sampling, draw_center, draw_labelled_case
from medseg.transforms.preprocessing import Preprocessing

from .chosen_parts import choose_augmentation
from .prepare import preprocess_case
from .processes import is_first_here
from .supervision import Watch
from .synthetic_cases import Mixture, refuse_synthetic

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
        project: package of the user's own parts, see `medseg.own_parts`.
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
        project: str | None = None,
    ) -> None:
        self.project = project
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
            kinds: dict[str, Any] = {"missing_channels": self.missing_channels, "project": self.project}
            self._cases = list_cases(self.part, self.data, dataset_dir, Path(bundle_root), fold, **kinds)
            refuse_synthetic(self.part, self._cases)
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
        augmentation: settings of `medseg.transforms.crops.augmentation.draw`, or a transform of {"image", "label"}.
        sampling: which cases and places, see `medseg.transforms.crops.sampling.Sampling`.
        synthetic_dir: a folder of `medseg synthesize sample` whose pairs are trained on too; empty for none.
        synthetic_ratio: synthetic crops for each real one.
        seed: of every draw.

    Raises:
        ConfigError: a ratio below 0, or synthetic pairs together with drawing labels first.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        labels: Mapping[Any, str],
        roi_size: Sequence[int],
        *,
        samples_per_epoch: int,
        augmentation: Any = None,
        sampling: Mapping[str, Any] | None = None,
        synthetic_dir: str = "",
        synthetic_ratio: float = 1.0,
        seed: int = 0,
        **source: Any,
    ) -> None:
        super().__init__(preprocessing, labels, **source)
        self.mixture = Mixture(synthetic_dir, synthetic_ratio)
        self.roi_size = tuple(int(size) for size in roi_size)
        self.samples_per_epoch, self.seed = samples_per_epoch, seed
        self.augmentation = choose_augmentation(augmentation, self.project)
        self.sampling = Sampling.of(sampling)
        self.holders: dict[
            int, list[int]
        ] = {}  # label -> numbers of the cases that hold it, where labels are drawn first
        self.watch = Watch(0)
        self.on_device = False  # `SegmentationData.augment_on` decides
        if self.mixture.folder and self.sampling.by == "label":
            raise ConfigError(
                "sampling by label and synthetic pairs exclude each other; set train::dataset::sampling::by=case"
            )

    @property
    def cases(self) -> list[Case]:
        """The real cases of the fold, then the synthetic ones."""
        if self._cases is None:
            real = super().cases
            _, bundle_root, fold = self.source
            held = () if self.data is not None else read_splits(Path(bundle_root))[fold]["val"]
            self._cases = [*real, *self.mixture.cases(real, held, self.labels)]
        return self._cases

    def open(self) -> None:
        super().open()
        if self.sampling.by == "label":
            for number, arrays in enumerate(self._arrays):
                for label in np.unique(arrays.foreground[:, 0]).tolist():
                    self.holders.setdefault(int(label), []).append(number)

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, item: int) -> dict[str, Any]:
        epoch, index = divmod(int(item), self.samples_per_epoch)
        key = SampleKey(self.seed, epoch, index)
        label, number = None, self.mixture.draw(key, len(self.cases), self.samples_per_epoch)
        if self.holders:
            label, number = draw_labelled_case(key, self.holders, self.sampling.power)
        case, arrays = self.cases[number], self._arrays[number]
        with self.watch.reading(number):
            try:
                return self._sample(key, case, arrays, label)
            except Exception as error:
                raise DataError(
                    f"case {case.name!r}: cannot make a training crop: {type(error).__name__}: {error}"
                ) from error

    def _sample(self, key: SampleKey, case: Case, arrays: StoredArrays, wanted: int | None) -> dict[str, Any]:
        source, source_label = arrays.image, arrays.label
        assert source_label is not None
        slices = len(self.roi_size) == 2
        extent = (*self.roi_size, 1) if slices else self.roi_size
        share = self.sampling.foreground
        center = draw_center(key, source.shape[1:], extent, arrays.foreground, share=share, label=wanted)
        if slices:  # a crop of the slice that was drawn
            number = round(center[2])
            source, source_label, center = source[..., number], source_label[..., number], center[:2]
        parameters = draw(key.generator(2), self.roi_size, source.shape[0], recipe=self.augmentation.recipe)
        parameters = spare_missing(parameters, arrays.properties.get("missing_channels", ()))
        if self.on_device:
            box = cut_box(source, source_label, center, self.roi_size, parameters)
            return {"box": box, "present": self.present(case), "name": case.name}
        cut, cut_label = apply(source, source_label, center, self.roi_size, parameters)
        crop = {"image": torch.as_tensor(cut), "label": torch.as_tensor(np.asarray(cut_label, dtype=np.int64))[None]}
        image, label = self.augmentation.changed(crop, seed=int(key.generator(3).integers(2**63)))
        return {
            "image": image,
            "label": label,
            "present": self.present(case),
            "name": case.name,
        }


class ValidationDataset(CaseDataset):
    """Whole preprocessed volumes; a number past the last case is an empty place, so that all processes have equally many."""

    part = "val"

    def __len__(self) -> int:
        return len(self.cases)

    def shape(self, index: int) -> tuple[int, ...]:
        """Voxels (X, Y, Z) of a case on the network's grid."""
        return tuple(int(size) for size in self._arrays[index].image.shape[1:])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self.cases):
            nothing = torch.zeros(0)
            return {"image": nothing, "label": nothing, "present": nothing, "name": "", "repeat": True}
        case, arrays = index, self._arrays[index]
        assert arrays.label is not None
        return {
            "image": torch.from_numpy(np.array(arrays.image)),
            "label": torch.from_numpy(np.array(arrays.label, dtype=np.int64))[None],
            "present": self.present(self.cases[case]),
            "name": self.cases[case].name,
            "repeat": False,
        }
