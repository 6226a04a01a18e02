"""What several token mixers share: the short convolution before a recurrence, splitting into heads, initial step sizes."""

import math
from collections.abc import Callable, Sequence
from typing import List, Optional, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import short_conv

from ..contract import Site


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

    Args:
        site: where it stands.
        width: channels, not always those of the site.
        kind: `causal` (along the raster order, as published for language and most vision mixers), `grid` (true 2D / 3D
            neighbourhood; published comparisons in 3D favour it) or `none`.
        kernel: taps; per axis and odd for `grid`.
        bias: whether it has one.
    """

    def __init__(self, site: Site, width: int, *, kind: str = "causal", kernel: int = 4, bias: bool = False) -> None:
        super().__init__()
        if kind not in ("causal", "grid", "none"):
            raise ConfigError(f"local_mix: found {kind!r}, expected causal, grid or none")
        self.kind = kind
        side = kernel if kernel % 2 else kernel - 1
        shape = [width, kernel] if kind == "causal" else [width, side, side, side if site.spatial_dims == 3 else 1]
        bound = math.prod(shape[1:]) ** -0.5
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) if kind != "none" else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias and kind != "none" else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight is None:
            return functional.silu(x)
        return short_conv(x.contiguous(), weight, self.bias, mode=self.kind, silu=True)


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


def wide(x: Tensor) -> Tensor:
    """In the type that decays, states and statistics are computed in: float32, or float64 for float64."""
    return x if x.dtype == torch.float64 else x.float()


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
