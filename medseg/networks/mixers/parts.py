"""What several token mixers share: the short convolution before a recurrence, splitting into heads, initial step sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Final, List, Optional, Self, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import short_conv

from ..contract import Site
from ..layers.common import wide as wide  # the mixers' type of states


class PlainTaps(nn.Module):
    """A module whose own parameters of four axes are no weights of a convolution of images.

    `network.to(memory_format=...)` reorders every tensor of four axes, and fails at these where the format has five. They are
    shown to it with two, and stay as the kernels read them.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def flat(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(1)).view(tensor.shape) if tensor.dim() == 4 else fn(tensor)

        return super()._apply(flat, recurse)


class LocalMix(PlainTaps):
    """A short depthwise convolution and SiLU: what gives a recurrence its first look at the neighbours.

    A causal convolution belongs to an order over the grid: the taps before a token are the tokens before it in the order that
    the recurrence follows. Where several orders share the heads, each part of the channels follows the order of its heads.

    Args:
        site: where it stands.
        width: channels, not always those of the site.
        kind: `causal` (along the traversal, as published for language and most vision mixers), `grid` (true 2D / 3D
            neighbourhood; published comparisons in 3D favour it) or `none`.
        kernel: taps; per axis and odd for `grid`.
        bias: whether it has one.
        traversals: the orders of the recurrence.
        parts: channels of each group that heads share out (queries, keys, ...); the whole width by default.

    Raises:
        ConfigError: an unknown kind, or channels that the orders cannot share out.
    """

    several: Final[bool]
    rows: Tensor
    back: Tensor

    def __init__(
        self,
        site: Site,
        width: int,
        *,
        kind: str = "causal",
        kernel: int = 4,
        bias: bool = False,
        traversals: Sequence[str] = ("raster",),
        parts: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if kind not in ("causal", "grid", "none"):
            raise ConfigError(f"local_mix: found {kind!r}, expected causal, grid or none")
        self.kind = kind
        side = kernel if kernel % 2 else kernel - 1
        shape = [width, kernel] if kind == "causal" else [width, side, side, side if site.spatial_dims == 3 else 1]
        bound = math.prod(shape[1:]) ** -0.5
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) if kind != "none" else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias and kind != "none" else None
        self.orders: List[List[str]] = [[order] for order in traversals]
        self.several = kind == "causal" and len(self.orders) > 1
        rows, back = _shares(list(parts) or [width], len(self.orders)) if self.several else ([[0]], [0])
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer("back", torch.tensor(back), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight is None:
            return functional.silu(x)
        if not self.several:
            return self.along(x, self.orders[0])
        mixed: List[Tensor] = []
        bias = self.bias
        for number, order in enumerate(self.orders):
            row = self.rows[number]
            offset: Optional[Tensor] = None if bias is None else bias[row]
            mixed.append(
                short_conv(x.index_select(-1, row), weight[row], offset, mode="causal", traversals=order, silu=True)
            )
        return torch.cat(mixed, dim=-1).index_select(-1, self.back)

    def along(self, x: Tensor, order: List[str]) -> Tensor:
        """All channels along one order."""
        weight = self.weight
        if weight is None:
            return functional.silu(x)
        return short_conv(x.contiguous(), weight, self.bias, mode=self.kind, traversals=order, silu=True)


def _shares(parts: List[int], orders: int) -> Tuple[List[List[int]], List[int]]:
    """Channels of each order, an equal share of every part in turn; and where each channel stands after joining them.

    Raises:
        ConfigError: a part cannot be shared out.
    """
    odd = [part for part in parts if part % orders]
    if odd:
        raise ConfigError(
            f"local_mix 'causal': {odd[0]} channels cannot be shared by {orders} traversals; use local_mix='grid'"
        )
    rows: List[List[int]] = []
    for number in range(orders):
        row, first = [], 0
        for part in parts:
            share = part // orders
            row += list(range(first + number * share, first + (number + 1) * share))
            first += part
        rows.append(row)
    joined = [channel for row in rows for channel in row]
    return rows, [joined.index(channel) for channel in range(len(joined))]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, X, Y, Z, H * E) -> (B, X, Y, Z, H, E)."""
    return x.unflatten(-1, [num_heads, x.shape[-1] // num_heads])


def share_heads(traversals: Sequence[str]) -> List[str]:
    """One order for all heads, or several of which each serves an equal share of the heads in the same pass."""
    return list(traversals) if len(traversals) == 1 else [f"heads({'; '.join(traversals)})"]


class HeadNorm(nn.Module):
    """Root-mean-square norm over the channels of each head, one gain per channel of a head; (..., H, E)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = wide(x)
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * wide(self.weight)


def keep_from_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a rate, state or table that weight decay must leave alone."""
    parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def initial_step_bias(count: int) -> Tensor:
    """Inverse softplus of step sizes drawn log-uniformly from [0.001, 0.1], never below 1e-4 (Mamba's initial steps)."""
    step = torch.exp(torch.rand(count) * math.log(100.0) + math.log(0.001)).clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))


def check_heads(site: Site, mixer: str, divisor: Optional[int] = None) -> None:
    """Refuse a width that the heads do not divide."""
    heads = site.num_heads if divisor is None else divisor
    if heads < 1 or site.width % heads:
        raise ConfigError(f"{mixer}: found width {site.width} and {heads} heads, expected heads that divide the width")
