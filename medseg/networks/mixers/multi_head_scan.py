"""MHS-VM's mixer: the channels split into sub-spaces, each scanned along its own routes; routes fused by their agreement.

R routes, H sub-spaces, E channels of a sub-space. Source: Ji 2024 (MHS-VM).
"""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg_kernels import selective_scan_scriptable

from ..contract import Context, Site
from .masking import exclude, hide
from .parts import LocalMix, initial_step_bias, keep_from_decay, wide

# One family of routes per sub-space: rows and snakes over the same axes; a route and its reverse see all tokens together.
# Four routes, since with two the coefficient of variation is 1 whatever they found.
FAMILIES = (("raster", "snake"), ("raster:YZX", "snake:YZX"), ("raster:ZYX", "snake:ZYX"), ("raster:XZY", "snake:XZY"))
ROUTES = 4


class MultiHeadScan(nn.Module):
    """[u, z] = W x; each sub-space of u is scanned along the four routes of its family; fusion; norm; W_out.

    Fusion of routes y_r: (sum y_r) * relu(v - t), v = std / (mean(y - min y) + 1e-5) over the routes: where the routes
    agree nothing new was found, and the token is damped.

    Args:
        site: where it stands; `num_heads` sub-spaces (1 to 4).
        state: S, states per channel.
        threshold: t.
    """

    def __init__(self, site: Site, *, state: int = 8, threshold: float = 0.0) -> None:
        super().__init__()
        heads, width = min(site.num_heads, len(FAMILIES)), site.width
        if heads < 1 or width % heads:
            raise ConfigError(f"multi_head_scan: found width {width} and {heads} heads, expected heads that divide it")
        families = FAMILIES[:heads]
        routes = [
            [family[i % 2] if i < 2 else f"reversed {family[i % 2]}" for family in families] for i in range(ROUTES)
        ]
        self.traversals: List[str] = [names[0] if heads == 1 else f"heads({'; '.join(names)})" for names in routes]
        self.heads, self.state, self.rank, self.threshold = heads, state, math.ceil(width / 16), threshold
        self.routes = ROUTES
        self.project_in = nn.Linear(width, 2 * width, bias=False)
        self.mix = LocalMix(site, width, kind="grid", kernel=3, bias=True)
        self.project_scan = nn.Linear(width, self.rank + 2 * heads * state, bias=False)
        self.project_dt = nn.Parameter(torch.empty(width, self.rank).uniform_(-(self.rank**-0.5), self.rank**-0.5))
        self.step_bias = keep_from_decay(nn.Parameter(initial_step_bias(width)))
        rate = torch.arange(1, state + 1, dtype=torch.float32).log().repeat(width, 1)
        self.log_rate = keep_from_decay(nn.Parameter(rate))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(width)))
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        u, z = self.project_in(hide(x, valid)).chunk(2, dim=-1)
        u = self.mix(u)
        dt, write, read = self.project_scan(u).split(
            [self.rank, self.heads * self.state, self.heads * self.state], dim=-1
        )
        weight: Optional[Tensor] = self.project_dt
        if valid is not None:  # steps of length 0: the state passes over padding untouched
            dt, weight = exclude(torch.nn.functional.linear(dt, self.project_dt), valid), None
        routes = selective_scan_scriptable(
            u,
            dt,
            -torch.exp(wide(self.log_rate)),
            write.unflatten(-1, [self.heads, self.state]),
            read.unflatten(-1, [self.heads, self.state]),
            self.skip,
            delta_bias=self.step_bias,
            delta_softplus=True,
            traversals=self.traversals,
            merge="concat",
            delta_weight=weight,
        ).unflatten(-1, [self.routes, -1])
        fused = self.norm(fuse_routes(routes, self.threshold)).to(x.dtype)
        return self.project_out(fused * torch.nn.functional.silu(z)), context


def fuse_routes(routes: Tensor, threshold: float) -> Tensor:
    """(..., R, C) -> (..., C): the sum, scaled by how much the routes differ (coefficient of variation), at least in float32."""
    y = wide(routes)
    centred = y - y.amin(-2, keepdim=True)
    # the small number under the root keeps its gradient finite where all routes are equal
    spread = (y.var(-2, correction=0) + 1e-12).sqrt()
    variation = spread / (centred.mean(-2) + 1e-5)
    return y.sum(-2) * torch.relu(variation - threshold)
