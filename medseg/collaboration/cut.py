"""What crosses between the sites of a split network: number format, size, and what is done to it before it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg.errors import ConfigError

WIRES = {"float32": torch.float32, "float16": torch.float16}
FINEST_DEFAULT = 2  # levels finer than this stay at their site unless they are asked for


@dataclass(frozen=True)
class Defence:
    """What a site does to its features before anything leaves, in training and in prediction.

    Args:
        dropout: share of values that are set to zero, also at prediction.
        clip: largest L2 norm of all that is sent for one item; larger ones are scaled down. None for none.
        noise: standard deviation of Gaussian noise, in units of `clip`; needs it.

    Raises:
        ConfigError: noise without clipping, or a value out of range.
    """

    dropout: float = 0.0
    clip: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1 or self.noise < 0 or (self.clip is not None and self.clip <= 0):
            raise ConfigError(f"{self}: expected 0 <= dropout < 1, noise >= 0 and clip > 0")
        if self.noise and self.clip is None:
            raise ConfigError("noise without clip has no scale; set both, such as noise=1 clip=10")

    @property
    def random(self) -> bool:
        """Whether two answers to one question differ."""
        return bool(self.dropout or self.noise)

    def apply(self, features: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Features (B, C, *space) per level -> what leaves; gradients flow back through it."""
        cut = list(features)
        if self.dropout:
            keep = 1 - self.dropout
            masks = [torch.rand(x.shape, generator=generator) < keep for x in cut]
            cut = [x * mask.to(x.dtype) / keep for x, mask in zip(cut, masks, strict=True)]
        if self.clip is not None:
            norm = torch.cat([x.flatten(1) for x in cut], dim=1).norm(dim=1).clamp_min(1e-12)
            scale = (self.clip / norm).clamp(max=1.0)
            cut = [x * scale.view(-1, *[1] * (x.dim() - 1)) for x in cut]
        if self.noise:
            sigma = self.noise * float(self.clip or 0)
            cut = [x + sigma * torch.randn(x.shape, generator=generator).to(x.dtype) for x in cut]
        return cut

    def words(self, items: int | None = None, delta: float = 1e-5) -> str:
        """One line for people: what is done, and what may be called private of it.

        Args:
            items: everything that the site releases; None to say nothing of privacy. All of it counts for each patient,
                since the encoder that makes the features of one has learnt from the others.
            delta: of the statement.
        """
        parts = [f"dropout {self.dropout:g}"] if self.dropout else []
        parts += [f"clipped to an L2 norm of {self.clip:g} per item"] if self.clip is not None else []
        parts += [f"Gaussian noise of {self.noise:g} x that norm"] if self.noise else []
        if self.noise and items is not None:
            epsilon = epsilon_of(self.noise, items, delta)
            parts.append(f"(epsilon, delta) = ({epsilon:.3g}, {delta:g}) over {items} released items")
        return ", ".join(parts) or "nothing"


def epsilon_of(noise: float, items: int, delta: float) -> float:
    """Epsilon of `items` releases, each of norm at most c with Gaussian noise of `noise` x c; replacing one patient moves an
    item by at most 2 c.

    Source: Bun and Steinke 2016 (zero-concentrated differential privacy): rho adds up, epsilon = rho + 2 sqrt(rho ln(1/delta)).
    """
    rho = items * 4.0 / (2.0 * noise**2)
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))


def sent_levels(levels: int, finest: int = FINEST_DEFAULT) -> list[int]:
    """Levels that leave a site: `finest` and coarser. Raises ConfigError where none is left."""
    if not 0 <= finest < levels:
        raise ConfigError(
            f"the finest level sent is {finest}; this network has the levels 0 (full resolution) to {levels - 1}"
        )
    return list(range(finest, levels))


def to_wire(tensors: Sequence[Tensor], wire: str) -> list[Tensor]:
    """Detached copies in the number format of the wire."""
    return [tensor.detach().to(WIRES[wire]).clone() for tensor in tensors]


def from_wire(tensors: Sequence[Tensor]) -> list[Tensor]:
    """float32 again."""
    return [tensor.to(torch.float32) for tensor in tensors]


def bytes_each_way(
    channels: Mapping[int, int], strides: Sequence[Sequence[int]], roi_size: Sequence[int], batch: int, wire: str
) -> int:
    """Bytes of features that one site sends per step; as many of gradients come back.

    Args:
        channels: level -> channels, of the levels sent.
        strides: per level and axis, voxels of the level above per voxel.
        roi_size, batch: voxels of a crop, and crops per step.
        wire: a name of `WIRES`.
    """
    total, shape = 0, list(roi_size)
    for level, step in enumerate(strides):
        shape = [-(-size // s) for size, s in zip(shape, step, strict=True)]
        total += channels.get(level, 0) * math.prod(shape)
    return total * batch * WIRES[wire].itemsize


class Recorded:
    """Another site's party, each message listed as (direction, method, what).

    Args:
        party: where calls go.
        name: of the site.
        log: the list to append to.
    """

    def __init__(self, party: Any, name: str, log: list[tuple[str, str, str]]) -> None:
        self._party, self._name, self._log = party, name, log

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._log.append((f"to {self._name}", method, shape_of(list(arguments))))
            reply = getattr(self._party, method)(*arguments)
            self._log.append((f"from {self._name}", method, shape_of(reply)))
            return reply

        return call


def shape_of(value: Any) -> str:
    """Type and shape of a message, without its values."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shape_of(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        kinds = [shape_of(entry) for entry in value]
        same = len(kinds) > 1 and len(set(kinds)) == 1 and not any(isinstance(entry, Tensor) for entry in value)
        return f"[{len(kinds)} x {kinds[0]}]" if same else "[" + ", ".join(kinds) + "]"
    return type(value).__name__
