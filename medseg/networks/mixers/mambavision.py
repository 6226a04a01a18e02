"""The mixer of MambaVision: a selective scan beside a plain convolution branch, joined by concatenation.

C channels, E = C / 2 channels per branch, S scan state. In the papers: rate = A, write = B, read = C, skip = D.
"""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg_kernels import selective_scan_scriptable, short_conv

from ..contract import Context, Site
from .masking import exclude, hide
from .parts import initial_step_bias, keep_from_decay, wide


class MambaVisionMixer(nn.Module):
    """u = W_in x; both halves pass a depthwise convolution and SiLU; one half is scanned; W_out joins [scan, other].

    Unlike Mamba the second half is concatenated, not multiplied; the convolution is not causal and has no bias; the
    scan has one direction.

    Args:
        site: where it stands; the scan runs over each window, or over the whole grid without one.
        state: S, states per channel.
        kernel: width of the convolution along the scan.
        dt_bias_scale: how often the bias of the step size counts. 1 is the formula; the published code counts it
            twice, so 2 gives its numbers with its weights.
        dt_init: `mamba` (steps of 0.001 to 0.1) or `mambavision` (what the published initialisation amounts to).

    Source: Hatamizadeh and Kautz 2024, MambaVision.
    """

    def __init__(self, site: Site, *, state: int = 8, kernel: int = 3, dt_bias_scale: float = 1.0,
                 dt_init: str = "mamba") -> None:  # fmt: skip
        super().__init__()
        if site.width % 2:
            raise ConfigError(
                f"mambavision: found width {site.width}, expected an even one (two branches of half each)"
            )
        self.inner, self.state, self.dt_bias_scale = site.width // 2, state, dt_bias_scale
        self.rank = math.ceil(site.width / 16)
        window = site.window_size
        # the state and the convolution start anew in every window; the whole grid is one window where none is given
        self.order: List[str] = ["raster" if window is None else f"windowed:{window[0]},{window[1]},{window[2]}"]
        self.project_in = nn.Linear(site.width, site.width, bias=False)
        self.taps = nn.Parameter(torch.empty(site.width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.project_scan = nn.Linear(self.inner, self.rank + 2 * state, bias=False)
        self.project_dt = nn.Linear(self.rank, self.inner, bias=True)
        rate = torch.arange(1, state + 1, dtype=torch.float32).log().repeat(self.inner, 1)
        self.log_rate = keep_from_decay(nn.Parameter(rate))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(self.inner)))
        self.project_out = nn.Linear(site.width, site.width, bias=False)
        initialise_steps(self.project_dt, dt_init)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        u = short_conv(self.project_in(hide(x, valid)), self.taps, None, mode="same", traversals=self.order, silu=True)
        u, z = u.chunk(2, dim=-1)
        dt, write, read = self.project_scan(u).split([self.rank, self.state, self.state], dim=-1)
        weight: Optional[Tensor] = self.project_dt.weight
        if valid is not None:  # steps of length 0: the state passes over padding untouched
            dt, weight = exclude(torch.nn.functional.linear(dt, self.project_dt.weight), valid), None
        y = selective_scan_scriptable(
            u,
            dt,
            -torch.exp(wide(self.log_rate)),
            write,
            read,
            self.skip,
            delta_bias=self.dt_bias_scale * self.project_dt.bias,
            delta_softplus=True,
            traversals=self.order,
            delta_weight=weight,
        )
        return self.project_out(torch.cat([y, z], dim=-1)), context


def initialise_steps(project_dt: nn.Linear, dt_init: str) -> None:
    """Step sizes between 0.001 and 0.1 (`mamba`), or near softplus(0) = 0.69 (`mambavision`)."""
    if dt_init not in ("mamba", "mambavision"):
        raise ConfigError(f"dt_init: found {dt_init!r}, expected mamba or mambavision")
    with torch.no_grad():
        if dt_init == "mamba":
            nn.init.uniform_(project_dt.weight, -(project_dt.in_features**-0.5), project_dt.in_features**-0.5)
            project_dt.bias.copy_(initial_step_bias(project_dt.out_features))
        else:
            nn.init.trunc_normal_(project_dt.weight, std=0.02)
            project_dt.bias.zero_()
