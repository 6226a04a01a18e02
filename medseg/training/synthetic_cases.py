"""Synthetic pairs beside the real cases of a training, and never among those that validate."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.datasets import open_dataset
from medseg.errors import ConfigError, DataError
from medseg.io.datalist import Case
from medseg.io.synthetic import MANIFEST, synthetic_among, synthetic_cases
from medseg.transforms.crops.sampling import SampleKey, draw_case

log = logging.getLogger(__name__)


def refuse_synthetic(part: str, cases: Sequence[Case]) -> None:
    """Refuse synthetic cases in a data set: those of validation would praise the network for what made it.

    Raises:
        DataError: naming the first.
    """
    if marked := synthetic_among(
        path for case in cases for path in (*case.images[:1], *([case.label] if case.label else []))
    ):
        raise DataError(
            f"{part}: {marked[0]} is synthetic, and a training's own data set must be real, since folds of it validate. Train on "
            "the real data set with medseg fit BUNDLE --synthetic DIR"
        )


@dataclass
class Mixture:
    """Which share of a training's crops is synthetic.

    Args:
        folder: of `medseg synthesize sample`; empty for none.
        ratio: synthetic crops for each real one.
    """

    folder: str = ""
    ratio: float = 1.0
    real: int = 0  # see `cases`

    def __post_init__(self) -> None:
        """Refuse a ratio that is none. Raises ConfigError."""
        if not 0 <= self.ratio <= 1000:
            raise ConfigError(
                f"--ratio (train::dataset::synthetic_ratio) is {self.ratio}; expected a number from 0 to 1000"
            )

    def cases(self, real: Sequence[Case], held_out: Collection[str], labels: Mapping[int, str]) -> list[Case]:
        """The pairs that may be trained on: none that was made out of a case that validates.

        Args:
            real: the training cases.
            held_out: names of the cases that validate.
            labels: of the bundle.

        Raises:
            DataError: no folder of synthetic pairs, labels that the bundle does not have, or nothing left.
        """
        self.real = len(real)
        if not self.folder or self.ratio == 0:
            return []
        marked = synthetic_cases(Path(self.folder))
        if not marked:
            raise DataError(
                f"{self.folder}: has no {MANIFEST}, so its images may be real; --synthetic takes a folder of medseg synthesize sample"
            )
        dataset = open_dataset(self.folder)
        if unknown := sorted(set(dataset.labels) - set(labels)):
            raise DataError(
                f"{self.folder}: has the labels {unknown}, which the bundle does not; make the pairs from its data"
            )
        unmarked = [case.name for case in dataset.cases if case.name not in marked]
        if unmarked:
            raise DataError(
                f"{self.folder}: {MANIFEST} does not list {unmarked[0]}; make the pairs again in a new folder"
            )
        kept = [case for case in dataset.cases if marked[case.name].get("source") not in held_out]
        if left := len(dataset.cases) - len(kept):
            log.info("%d of %d synthetic pairs are left out: made from cases that validate", left, len(dataset.cases))
        if not kept:
            raise DataError(
                f"{self.folder}: every pair was made from a case that validates; make some from others (--cases)"
            )
        return kept

    def draw(self, key: SampleKey, count: int, epoch_length: int) -> int:
        """Number of a sample's case among the real ones, which come first, and the synthetic ones; `count` in all."""
        if count == self.real or not self.folder:
            return draw_case(key, count, epoch_length)
        synthetic = key.generator(5).random() < self.ratio / (1 + self.ratio)
        if synthetic:
            return self.real + draw_case(key, count - self.real, epoch_length)
        return draw_case(key, self.real, epoch_length)
