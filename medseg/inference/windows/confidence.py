"""How sure a network is, read from the logits while they lie in the slab: sums per output, a map of 8 bits, samples.

Nothing here keeps logits or probabilities of a volume, and nothing changes labels: each watcher sees a few planes at a time.

Source of the expected overlap: Borges et al. 2025, soft Dice confidence; E[Dice] is close to 2 sum(p in mask) / (|mask| + sum p).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.transforms.grid import GridMap

PLANES = 8  # of the source grid, looked at together


class Watcher(Protocol):
    """What sees the logits of the source grid, block by block."""

    def restart(self) -> None:
        """Forget everything: a shortage of memory makes the windows run anew."""

    def put(self, grid: GridMap, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        """See one block.

        Args:
            grid: from the network's grid back to the source.
            place: of the block in turned and cut source voxels.
            logits: (K, x, y, z) of the block, on the CPU.
        """


class LabelSums:
    """Per output of the network, sums over the source grid from which an expected overlap follows.

    Args:
        regions: outputs are overlapping regions, one sigmoid each; else one softmax over them.
        shares: what is seen are mean probabilities already.

    Attributes: arrays of K float64. `size`: voxels of the mask (argmax, or probability above one half). `inside`: sum of the
    probability over the mask. `total`: sum of the probability over everything. `doubt`: sum of p (1 - p), whose voxels lie along
    the boundary where the network knows its way, and everywhere where it does not.
    """

    def __init__(self, *, regions: bool = False, shares: bool = False) -> None:
        self.regions, self.shares = regions, shares
        self.restart()

    def restart(self) -> None:
        self.size = self.inside = self.total = self.doubt = np.zeros(0)

    def put(self, grid: GridMap, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        flat = logits.float().flatten(1)
        outputs = len(flat)
        if self.regions:
            p = flat.sigmoid()
            mask = p > 0.5
            size, inside = mask.sum(1), (p * mask).sum(1)
        else:
            p = flat if self.shares else flat.softmax(0)
            top, first = p.max(0)
            size, inside = (
                torch.bincount(first, minlength=outputs),
                torch.bincount(first, weights=top, minlength=outputs),
            )
        total = p.sum(1, dtype=torch.float64)
        doubt = total - torch.einsum("kn,kn->k", p, p).double()
        found = [part.double().numpy() for part in (size, inside, total, doubt.clamp_min(0))]
        if not len(self.size):
            self.size = self.inside = self.total = self.doubt = np.zeros(outputs)
        self.size, self.inside, self.total, self.doubt = (
            before + more for before, more in zip((self.size, self.inside, self.total, self.doubt), found, strict=True)
        )

    def as_dict(self) -> dict[str, NDArray[np.float64]]:
        """The four arrays by name."""
        return {"size": self.size, "inside": self.inside, "total": self.total, "doubt": self.doubt}


class UncertaintyMap:
    """Entropy of the calibrated probabilities on the source grid: uint8, 0 certain, 255 all classes alike.

    Args:
        temperature: divides the logits; learned on cases that the network did not see, 1 where nothing was learned.
        regions, shares: as in `LabelSums`; of regions the most uncertain one counts.
    """

    def __init__(self, temperature: float = 1.0, *, regions: bool = False, shares: bool = False) -> None:
        self.temperature, self.regions, self.shares = temperature, regions, shares
        self.values: NDArray[np.uint8] | None = None

    def restart(self) -> None:
        self.values = None

    def put(self, grid: GridMap, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        if self.values is None:
            self.values = np.zeros(grid.source_shape, dtype=np.uint8)
        logits = logits.float().clamp_min(1e-12).log() if self.shares and not self.regions else logits.float()
        scaled = logits / self.temperature
        if self.regions:
            p = scaled.sigmoid()
            entropy = (-(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)).amax(0)
        else:
            logs = scaled.log_softmax(0)
            entropy = -torch.einsum("kxyz,kxyz->xyz", logs.exp(), logs) / math.log(max(len(logs), 2))
        levels = entropy.clamp(0, 1).mul_(255).round_().to(torch.uint8).numpy()
        grid.cut(grid.turn(self.values))[place] = levels


class LogitSamples:
    """Logits at chosen voxels of the source grid, for a temperature.

    Args:
        chosen: (X, Y, Z) bool on the source grid.
        shares: as in `LabelSums`; the logarithm is kept.
    """

    def __init__(self, chosen: NDArray[np.bool_], *, shares: bool = False) -> None:
        self.chosen, self.shares = chosen, shares
        self.index = np.zeros(chosen.shape, dtype=np.int32)
        self.index[chosen] = np.arange(1, int(chosen.sum()) + 1)
        self.restart()

    def restart(self) -> None:
        self.values: NDArray[np.float32] | None = None

    def put(self, grid: GridMap, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        if self.values is None:  # outside a cut box background is certain
            self.values = np.full((int(self.chosen.sum()), len(logits)), np.nan, dtype=np.float32)
        numbers = np.ascontiguousarray(grid.cut(grid.turn(self.index))[place]).reshape(-1)
        (hit,) = np.nonzero(numbers)
        if len(hit):
            found = logits.float().flatten(1)[:, torch.from_numpy(hit)]
            found = found.clamp_min(1e-12).log() if self.shares else found
            self.values[numbers[hit] - 1] = found.T.numpy()


class Votes:
    """Agreement of the passes of one prediction: members of an ensemble, or mirror images, as pairwise Dice over all windows.

    With n votes of M passes for an output at a voxel, n (n - 1) pairs agree there: the pooled pairwise Dice of an output is
    sum n (n - 1) / ((M - 1) sum n). Voxels of overlapping windows count once per window.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.passes = 0
        self.agreeing = self.given = np.zeros(0)

    def count(self, passes: list[torch.Tensor], outputs: int) -> None:
        """Add one batch of windows: per pass the (B, x, y, z) index of the largest output."""
        self.passes = len(passes)
        if not len(self.given):
            self.agreeing, self.given = np.zeros(outputs), np.zeros(outputs)
        for output in range(outputs):
            votes = sum((one == output).to(torch.int32) for one in passes)
            assert isinstance(votes, torch.Tensor)
            self.given[output] += float(votes.sum())
            self.agreeing[output] += float((votes * (votes - 1)).sum())

    def agreement(self) -> NDArray[np.float64]:
        """(K,) pairwise Dice; NaN for an output without a vote; empty for a single pass."""
        if self.passes < 2:
            return np.zeros(0)
        pairs = (self.passes - 1) * self.given
        return np.divide(self.agreeing, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
