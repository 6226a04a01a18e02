"""Which case and which place a training sample comes from: drawn from (seed, epoch, index) alone.

The draw needs no state, so a resumed run sees the same samples as an uninterrupted one, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
) -> tuple[float, ...]:
    """Centre of a crop in voxel coordinates: on a labelled voxel for a share of samples, else anywhere the crop fits.

    Args:
        key: the sample.
        shape: voxels of the case.
        roi_size: voxels of the crop; an axis shorter than the crop is centred.
        foreground: (n, 1 + axes) rows (label, voxel); the label is drawn first, so that small labels are seen as often.
        share: probability of a labelled centre.
    """
    generator = key.generator(1)
    wanted = generator.random() < share
    free = [max(0, extent - size) for extent, size in zip(shape, roi_size, strict=True)]
    anywhere = [generator.integers(0, room + 1) for room in free]
    if wanted and len(foreground):
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
