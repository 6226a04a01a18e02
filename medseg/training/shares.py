"""How a step's batch is shared out: over processes, and within each into parts that its device holds at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.errors import ConfigError
from medseg.networks.layers import batch_rows


@dataclass(frozen=True)
class Share:
    """The samples of one process in every step; sample j is number `j * processes + rank` of the whole batch.

    Args:
        batch_size: samples of a step, over all processes.
        rank, processes: which of them, of how many.
        at_once: samples that a device holds at once; None for all of its share.
    """

    batch_size: int
    rank: int = 0
    processes: int = 1
    at_once: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.processes:
            fitting = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ConfigError(
                f"batch_size is {self.batch_size} and {self.processes} processes train together, which each take as many "
                f"samples of a step; set batch_size={-(-self.batch_size // self.processes) * self.processes}, or train with "
                f"--devices {max(n for n in fitting if n <= self.processes)}"
            )
        if self.at_once is not None and self.at_once < 1:
            raise ConfigError(f"micro_batch_size is {self.at_once}; expected at least 1, or null")

    @property
    def samples(self) -> int:
        """Of a step in this process."""
        return self.batch_size // self.processes

    def parts(self) -> list[range]:
        """This process's samples, part by part."""
        size = min(self.at_once or self.samples, self.samples)
        return [range(first, min(first + size, self.samples)) for first in range(0, self.samples, size)]

    def rows(self, part: range) -> list[int]:
        """Numbers in the whole batch of the samples of a part."""
        return [sample * self.processes + self.rank for sample in part]


def scales_in_parts(
    network: nn.Module, image: Tensor, share: Share, run: Callable[[nn.Module, Tensor], list[Tensor]], *, seed: int
) -> list[Tensor]:
    """The logits of this process's samples, computed part by part, as one call would give them.

    Only the last part keeps what its way back needs; the others run again when it is their turn. So a step takes the memory
    of one part, and the loss, which sees all logits at once, is that of the whole batch: a sum of the parts' own losses
    would be another one, since a Dice over several samples is no mean of their Dices.

    Args:
        network: what is trained.
        image: (B, C, *space), B of `share.samples`.
        share: how the batch is shared out.
        run: `run(network, image)` gives the scales.
        seed: of what the network draws in this step.
    """
    parts = share.parts()
    if len(image) != share.samples:  # a batch of the caller's own
        return run(network, image)

    def of(part: range) -> Callable[[Tensor], list[Tensor]]:
        def forward(crops: Tensor) -> list[Tensor]:
            torch.manual_seed(seed)  # every part draws for the whole batch, and takes its rows
            with batch_rows.holding(share.rows(part), share.batch_size):
                return run(network, crops)

        return forward

    found = [
        checkpoint(
            of(part), image[part.start : part.stop], use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(network)),
        )
        for part in parts[:-1]
    ]  # fmt: skip
    found.append(of(parts[-1])(image[parts[-1].start :]))
    return [torch.cat(scale) for scale in zip(*found, strict=True)] if len(found) > 1 else found[0]


@contextmanager
def _statistics_kept(network: nn.Module) -> Any:
    """A part that runs again has been counted in the running statistics of batch norms already."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
