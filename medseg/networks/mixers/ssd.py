"""Mamba-2's mixer (state-space duality): a matrix state per head with one decay per head and step.

H heads, S scan state, G groups. In the paper: rate = A, write = B, read = C, skip = D.
Source: Dao and Gu 2024 (arXiv 2405.21060).
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import ssd

from ..contract import Context, Site
from .masking import hide
from .parts import LocalMix, initial_step_bias, keep_from_decay, share_heads, split_heads, wide


class SSD(nn.Module):
    """[z, x, write, read, dt] = W x; convolution on x, write, read; state-space recurrence; norm(y * silu(z)); W_out.

    Args:
        site: where it stands. `num_heads` is not used: heads have `head_channels` channels, as published.
        state: S.
        expand: inner channels per channel.
        head_channels: channels per head (64 in the paper; fewer in narrow networks).
        groups: G, how many write/read pairs the heads share.
        traversals: orders over the grid. One is the published form; several are shared out over the heads.
        local_mix: `causal` (published, 4 taps, with bias) or `grid`.
    """

    def __init__(self, site: Site, *, state: int = 128, expand: int = 2, head_channels: int = 64, groups: int = 1,
                 traversals: tuple[str, ...] = ("raster",), local_mix: str = "causal") -> None:  # fmt: skip
        super().__init__()
        inner = site.width * expand
        if inner % head_channels or (inner // head_channels) % groups:
            raise ConfigError(
                f"ssd: found {inner} inner channels, {head_channels} per head, {groups} groups; expected heads that "
                "divide the channels and groups that divide the heads"
            )
        self.inner, self.state, self.groups = inner, state, groups
        self.num_heads = inner // head_channels
        self.traversals: List[str] = share_heads(traversals)
        self.widths: List[int] = [inner, inner + 2 * groups * state, self.num_heads]
        self.project_in = nn.Linear(site.width, sum(self.widths), bias=False)
        writes = groups * state
        if local_mix == "causal" and groups % len(traversals):
            raise ConfigError(
                f"ssd: found {groups} groups for {len(traversals)} traversals; a causal convolution follows its heads' order, so "
                "groups must be a multiple of them; use local_mix='grid'"
            )
        self.mix = LocalMix(
            site, inner + 2 * writes, kind=local_mix, bias=True, traversals=traversals, parts=(inner, writes, writes)
        )
        self.log_rate = keep_from_decay(nn.Parameter(torch.empty(self.num_heads).uniform_(1.0, 16.0).log()))
        self.step_bias = keep_from_decay(nn.Parameter(initial_step_bias(self.num_heads)))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(self.num_heads)))
        self.gain = nn.Parameter(torch.ones(inner))
        self.project_out = nn.Linear(inner, site.width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        z, mixed, dt = self.project_in(hide(x, valid)).split(self.widths, dim=-1)
        mixed = self.mix(mixed)
        u, write, read = mixed.split([self.inner, self.groups * self.state, self.groups * self.state], dim=-1)
        step = functional.softplus(wide(dt) + wide(self.step_bias))
        step = hide(step, valid)  # 0: nothing fades, nothing is written
        y, _ = ssd(
            split_heads(u, self.num_heads), step, -torch.exp(wide(self.log_rate)), split_heads(write, self.groups),
            split_heads(read, self.groups), traversals=self.traversals,
        )  # fmt: skip
        y = y + self.skip.to(y.dtype).unsqueeze(-1) * split_heads(u, self.num_heads)
        gated = wide(y.flatten(-2)) * functional.silu(wide(z))
        return self.project_out(self.normalise(gated).to(x.dtype)), context

    def normalise(self, gated: Tensor) -> Tensor:
        """Root-mean-square norm behind the gate, each group of channels by itself, in float32."""
        grouped = split_heads(gated, self.groups)
        grouped = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + 1e-5)
        return grouped.flatten(-2) * wide(self.gain)
