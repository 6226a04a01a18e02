"""`medseg probe`: how far a token mixer really looks, along each axis and in each direction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medseg.assurance.context_task import Task, at_targets, draw
from medseg.errors import ConfigError, nearest
from medseg.networks.contract import Context, Site
from medseg.networks.layers.common import convolution, to_image, to_tokens
from medseg.networks.mixers import MIXERS
from medseg.networks.stages import Residual

WIDTH, HEADS, LAYERS, WINDOW = 32, 4, 2, 4
A_HEAD_PER_AXIS = (48, 6)  # width and heads of mixers that need a multiple of three heads
DISTANCES = (3, 6, 12)
SOLVED = 0.95  # share of right answers
BATCH, TEST = 16, 240
NEEDS_MORE = ("carrier_attention", "global_query_attention", "time_attention")  # side tensors that a stage prepares


@dataclass(frozen=True)
class Effort:
    """How long is trained.

    Args:
        seconds: of all distances of a mixer together.
        steps: at most, for each distance; training ends early once the last batches are all right.
        seed: of the network and the data.
    """

    seconds: float = 180.0
    steps: int = 600
    seed: int = 0


@dataclass(frozen=True)
class Reach:
    """What one mixer answered at one distance.

    Args:
        mixer, distance: of the task.
        accuracy: share of right answers over all axes and directions.
        along: `+x`, `-x` ... -> share of right answers; + is a target behind the marker.
        steps, seconds: of the training.
    """

    mixer: str
    distance: int
    accuracy: float
    along: dict[str, float]
    steps: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class ProbeNetwork(nn.Module):
    """A convolution of 3 voxels, residual mixers at full resolution, a layer of each voxel alone."""

    def __init__(self, mixer: str) -> None:
        super().__init__()
        width, heads = A_HEAD_PER_AXIS if mixer in ("axial_attention", "stripe_attention") else (WIDTH, HEADS)
        self.stem = convolution(3, 1, width, 3)
        sites = [Site(width, heads, (WINDOW,) * 3, 3, index=number, grid=(16, 16, 16)) for number in range(LAYERS)]
        self.layers = nn.ModuleList(Residual(site, MIXERS[mixer](site)) for site in sites)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in sites
        )
        self.head = nn.Linear(width, 2)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, 1, X, Y, Z) -> (B, 2, X, Y, Z)."""
        tokens, context = to_tokens(self.stem(volume)), Context()
        for layer, mlp in zip(self.layers, self.mlps, strict=True):
            tokens, context = layer(tokens, context)
            tokens = tokens + mlp(tokens)
        return to_image(self.head(tokens), 3)


def probe(
    mixers: Sequence[str] = (),
    *,
    distances: Sequence[int] = DISTANCES,
    effort: Effort | None = None,
    told: Callable[[Reach], None] | None = None,
) -> list[Reach]:
    """Train a small network around each mixer for each distance, and ask it along every axis in both directions.

    Args:
        mixers: names; all that need no side tensors by default.
        distances: voxels between marker and target.
        effort: how long.
        told: called with each result as it comes.

    Raises:
        ConfigError: an unknown mixer, one that a stage must prepare, or a distance without room.
    """
    known = [name for name in MIXERS if name not in NEEDS_MORE]
    for name in mixers:
        if name in NEEDS_MORE:
            raise ConfigError(f"probe: {name} needs tensors that its own stage prepares, and cannot stand alone")
        if name not in MIXERS:
            raise ConfigError(f"probe: {name!r} is no mixer; there are {', '.join(known)}. {nearest(name, known)}")
    tasks = [Task(distance) for distance in distances]
    effort, found = effort or Effort(), []
    for name in mixers or known:
        for task in tasks:
            found.append(_reach(name, task, effort, effort.seconds / len(tasks)))
            if told is not None:
                told(found[-1])
    return found


def _reach(mixer: str, task: Task, effort: Effort, seconds: float) -> Reach:
    random = torch.Generator().manual_seed(effort.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(effort.seed)
        network = ProbeNetwork(mixer)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    began, right, steps = time.perf_counter(), 0, 0
    while steps < effort.steps and time.perf_counter() - began < seconds and right < 8:
        volumes, places, kinds = draw(task, BATCH, random)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps + 1) / 20)
        answers = at_targets(network(volumes), places)
        optimizer.zero_grad()
        functional.cross_entropy(answers, kinds).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
        right = right + 1 if bool((answers.argmax(1) == kinds).all()) else 0
    spent = time.perf_counter() - began
    along = _asked(network.eval(), task, effort.seed + 1)
    return Reach(mixer, task.distance, sum(along.values()) / len(along), along, steps, spent)


@torch.inference_mode()
def _asked(network: ProbeNetwork, task: Task, seed: int) -> dict[str, float]:
    random, found = torch.Generator().manual_seed(seed), {}
    each = TEST // (len(task.axes) * len(task.directions))
    for axis in task.axes:
        for direction in task.directions:
            volumes, places, kinds = draw(
                Task(task.distance, task.length, task.width, (axis,), (direction,)), each, random
            )
            answers = at_targets(network(volumes), places).argmax(1)
            found[f"{'+' if direction > 0 else '-'}{'xyz'[axis]}"] = float((answers == kinds).float().mean())
    return found
