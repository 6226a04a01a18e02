"""Mamba's mixer over a grid: a selective scan along one or several orders, gated.

R traversals, S scan state. In the paper: rate = A, write = B, read = C, skip = D. Source: Gu and Dao 2023 (Mamba); several
orders after Zhu et al. 2024 (Vim), Xing et al. 2024 (SegMamba), Yang et al. 2024 (PlainMamba).
"""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg_kernels import convolved_scan, selective_scan_scriptable, short_conv

from ..contract import Context, Site
from .masking import exclude, hide
from .parts import PlainTaps, initial_step_bias, keep_from_decay, wide

MOVES = 7  # kinds of step in a traversal: a jump, and one to either side along each of three axes


class SelectiveScan(PlainTaps):
    """[u, z] = W x; u passes a short convolution and is scanned along every order; sum of the orders, times silu(z); W.

    Args:
        site: where it stands.
        state: S.
        expand: inner channels per channel.
        kernel: taps of the convolution; per axis for `grid`.
        traversals: orders over the grid, texts of medseg_kernels.traversals. `raster` alone is Mamba's (U-Mamba).
        separate: whether every order has its own convolution, projections, rates and skip (Vim, SegMamba) or all share
            them (PlainMamba).
        merge: `sum` or `mean` of the orders.
        local_mix: `causal` (along each order, as published) or `grid` (2D / 3D neighbourhood, shared).
        step_write: add a learned vector to B per direction of the step (PlainMamba).
        dt_bias_scale: how often the bias of the step size counts; PlainMamba's released code counts it twice.
        bias: whether the projections in and out have one (PlainMamba).
    """

    def __init__(self, site: Site, *, state: int = 16, expand: int = 2, kernel: int = 4,
                 traversals: tuple[str, ...] = ("raster",), separate: bool = False, merge: str = "sum",
                 local_mix: str = "causal", step_write: bool = False, dt_bias_scale: float = 1.0,
                 bias: bool = False) -> None:  # fmt: skip
        super().__init__()
        if merge not in ("sum", "mean") or local_mix not in ("causal", "grid"):
            raise ConfigError(f"selective_scan: found merge {merge!r}, local_mix {local_mix!r}; expected sum or mean, and "
                              "causal or grid")  # fmt: skip
        inner, self.state, self.rank = site.width * expand, state, math.ceil(site.width / 16)
        sets = len(traversals) if separate else 1
        self.traversals: List[str] = list(traversals)
        self.sets, self.merge, self.mode, self.dt_bias_scale = sets, merge, local_mix, dt_bias_scale
        self.project_in = nn.Linear(site.width, 2 * inner, bias=bias)
        side = kernel if kernel % 2 else kernel - 1
        shape = [len(traversals) if separate else 1, inner, kernel]
        if local_mix == "grid":
            shape = [inner, side, side, side if site.spatial_dims == 3 else 1]
        bound = math.prod(shape[-(1 if local_mix == "causal" else 3) :]) ** -0.5
        self.taps = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        offsets = torch.empty(shape[:-1] if local_mix == "causal" else [inner]).uniform_(-bound, bound)
        self.taps_bias = keep_from_decay(nn.Parameter(offsets))
        out = self.rank + 2 * state
        self.project_scan = nn.Parameter(torch.empty(sets, out, inner).uniform_(-(inner**-0.5), inner**-0.5))
        self.project_dt = nn.Parameter(
            torch.empty(sets, inner, self.rank).uniform_(-(self.rank**-0.5), self.rank**-0.5)
        )
        steps = torch.stack([initial_step_bias(inner) for _ in range(sets)])
        self.step_bias = keep_from_decay(nn.Parameter(steps))
        rate = torch.arange(1, state + 1, dtype=torch.float32).log().repeat(sets, inner, 1)
        self.log_rate = keep_from_decay(nn.Parameter(rate))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(sets, inner)))
        moves, self.moves = 1 + 2 * site.spatial_dims, MOVES
        self.step_write = keep_from_decay(nn.Parameter(torch.randn(moves, state) * 0.02)) if step_write else None
        self.project_out = nn.Linear(inner, site.width, bias=bias)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        u, z = self.project_in(hide(x, valid)).chunk(2, dim=-1)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            y = self.parts(u, z, valid)
        else:
            y = self.eager(u, z, valid)
        return self.project_out(y), context

    @torch.jit.unused
    def eager(self, u: Tensor, z: Tensor, valid: Optional[Tensor]) -> Tensor:
        """The parts as one op that keeps little for the backward pass, where it can be used."""
        recorded = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]
        if recorded or valid is not None or self.step_write is not None:
            return self.parts(u, z, valid)
        return convolved_scan(
            u, z, self.taps, self.taps_bias, self.project_scan, self.project_dt, -torch.exp(wide(self.log_rate)),
            self.skip, self.dt_bias_scale * self.step_bias, mode=self.mode, traversals=self.traversals,
            merge=self.merge,
        )  # fmt: skip

    def parts(self, u: Tensor, z: Tensor, valid: Optional[Tensor]) -> Tensor:
        """Convolution, projections and gated scan, one after the other."""
        u = self.convolve(u)
        if self.sets > 1:
            mixed = torch.einsum(
                "brxyzi,roi->brxyzo", u if u.dim() == 6 else self.spread(u), self.project_scan.to(u.dtype)
            )
        else:
            mixed = torch.nn.functional.linear(u, self.project_scan[0])
        dt, write, read = mixed.split([self.rank, self.state, self.state], dim=-1)
        if mixed.dim() == 6:
            write, read = write.unsqueeze(-2), read.unsqueeze(-2)
        weight: Optional[Tensor] = self.project_dt if self.sets > 1 else self.project_dt[0]
        moved: Optional[Tensor] = self.step_write
        if moved is not None:
            moved = torch.nn.functional.pad(moved, [0, 0, 0, self.moves - moved.shape[0]])  # no step leaves a flat grid
        if valid is not None:  # steps of length 0: the state passes over padding untouched
            dt, weight = self.steps(dt, valid), None
        return selective_scan_scriptable(
            u,
            dt,
            -torch.exp(wide(self.log_rate)) if self.sets > 1 else -torch.exp(wide(self.log_rate[0])),
            write,
            read,
            self.skip if self.sets > 1 else self.skip[0],
            z=z,
            delta_bias=self.dt_bias_scale * (self.step_bias if self.sets > 1 else self.step_bias[0]),
            delta_softplus=True,
            traversals=self.traversals,
            merge=self.merge,
            delta_weight=weight,
            step_write=moved,
        )

    def convolve(self, u: Tensor) -> Tensor:
        """(B, X, Y, Z, C) -> the same, or (B, R, X, Y, Z, C) where each order has its own view of the neighbours."""
        if self.mode == "grid":
            return short_conv(u, self.taps, self.taps_bias, mode="grid", silu=True)
        if len(self.traversals) == 1:
            return short_conv(u, self.taps[0], self.taps_bias[0], traversals=self.traversals, silu=True)
        count = len(self.traversals)
        taps, bias = self.taps.expand(count, -1, -1), self.taps_bias.expand(count, -1)
        return short_conv(u, taps, bias, traversals=self.traversals, silu=True)

    def steps(self, dt: Tensor, valid: Tensor) -> Tensor:
        """Step sizes before their bias and softplus, at full width; so low at padding that the softplus is 0."""
        if dt.dim() == 6:
            full = torch.einsum("brxyzk,rck->brxyzc", dt, self.project_dt.to(dt.dtype))
            return exclude(full, valid.unsqueeze(1).expand(-1, full.shape[1], -1, -1, -1))
        return exclude(torch.nn.functional.linear(dt, self.project_dt[0]), valid)

    def spread(self, u: Tensor) -> Tensor:
        """(B, X, Y, Z, C) -> (B, R, X, Y, Z, C), a view."""
        return u.unsqueeze(1).expand(-1, self.sets, -1, -1, -1, -1)
