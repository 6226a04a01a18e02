"""Which case and which place a training sample comes from: drawn from (seed, epoch, index) alone.

The draw needs no state, so a resumed run sees the same samples as an uninterrupted one, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, nearest

# Share of crops centred on a labelled voxel; nnU-Net's value.
FOREGROUND_SHARE = 0.33


@dataclass(frozen=True)
class SampleKey:
    """What a random draw depends on."""

    seed: int
    epoch: int
    index: int

    def generator(self, purpose: int = 0) -> np.random.Generator:
        """A generator of its own for each purpose, so that a new draw in one place moves no other."""
        sequence = np.random.SeedSequence([self.seed, self.epoch, self.index, purpose])
        return np.random.Generator(np.random.Philox(sequence))


@dataclass(frozen=True)
class Sampling:
    """Which cases and places training crops come from.

    Args:
        foreground: share of crops centred on a labelled voxel, in [0, 1].
        by: `case` draws every case equally often, and then one of its labels; `label` draws a label, and then one of the
            cases that hold it, so that what few cases hold is seen as often as what all do.
        power: with `label`, a label is drawn in proportion to its number of cases to this power: 0 is equally often, -1
            favours rare ones, 1 is as often as cases hold it.

    Raises:
        ConfigError: a value outside of these.
    """

    foreground: float = FOREGROUND_SHARE
    by: str = "case"
    power: float = 0.0

    def __post_init__(self) -> None:
        if self.by not in ("case", "label"):
            raise ConfigError(f"sampling by {self.by!r} does not exist. {nearest(str(self.by), ['case', 'label'])}")
        if not 0 <= self.foreground <= 1:
            raise ConfigError(f"sampling foreground is {self.foreground}, expected a share in [0, 1]")
        if not abs(self.power) <= 10:
            raise ConfigError(f"sampling power is {self.power}, expected a number from -10 to 10")

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Sampling:
        """From a configuration's table. Raises ConfigError for an unknown setting."""
        known = [field.name for field in fields(cls)]
        for name in settings or {}:
            if name not in known:
                raise ConfigError(f"sampling has no setting {name!r}. {nearest(str(name), known)}")
        return cls(**dict(settings or {}))


def draw_labelled_case(key: SampleKey, holders: Mapping[int, Sequence[int]], power: float = 0.0) -> tuple[int, int]:
    """A label and the number of a case that holds it.

    Args:
        key: the sample.
        holders: label -> numbers of the cases that hold it.
        power: see `Sampling`.
    """
    generator = key.generator(4)
    labels = sorted(holders)
    weights = np.asarray([len(holders[label]) for label in labels], dtype=np.float64) ** power
    label = labels[int(generator.choice(len(labels), p=weights / weights.sum()))]
    return label, int(holders[label][int(generator.integers(len(holders[label])))])


def draw_case(key: SampleKey, count: int, epoch_length: int) -> int:
    """Index of the case of a sample; every case is drawn equally often, in another order each round.

    Args:
        key: the sample.
        count: number of cases.
        epoch_length: samples per epoch.
    """
    position = key.epoch * epoch_length + key.index
    round_number, place = divmod(position, count)
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([key.seed, round_number, 0xCA5E]))).permutation(
        count
    )
    return int(order[place])


def draw_center(
    key: SampleKey,
    shape: Sequence[int],
    roi_size: Sequence[int],
    foreground: NDArray[np.int32],
    *,
    share: float = FOREGROUND_SHARE,
    label: int | None = None,
) -> tuple[float, ...]:
    """Centre of a crop in voxel coordinates: on a labelled voxel for a share of samples, else anywhere the crop fits.

    Args:
        key: the sample.
        shape: voxels of the case.
        roi_size: voxels of the crop; an axis shorter than the crop is centred.
        foreground: (n, 1 + axes) rows (label, voxel); the label is drawn first, so that small labels are seen as often.
        share: probability of a labelled centre.
        label: that label, where it was drawn already.
    """
    generator = key.generator(1)
    wanted = generator.random() < share
    free = [max(0, extent - size) for extent, size in zip(shape, roi_size, strict=True)]
    anywhere = [generator.integers(0, room + 1) for room in free]
    if wanted and len(foreground):
        if label is None:
            label = generator.choice(np.unique(foreground[:, 0]))
        rows = foreground[foreground[:, 0] == label]
        voxel = rows[generator.integers(0, len(rows)), 1:]
        start = [
            min(max(int(place) - size // 2, 0), room) for place, size, room in zip(voxel, roi_size, free, strict=True)
        ]
    else:
        start = [int(value) for value in anywhere]
    return tuple(
        (begin + (size - 1) / 2) if room > 0 else (extent - 1) / 2
        for begin, size, room, extent in zip(start, roi_size, free, shape, strict=True)
    )
