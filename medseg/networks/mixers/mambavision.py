"""The mixer of MambaVision: a selective scan beside a plain convolution branch, joined by concatenation.

C channels, E = C / 2 channels per branch, S scan state. In the papers: rate = A, write = B, read = C, skip = D.
"""

import math
from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.context import Context, Site


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
        width, half = site.width, site.width // 2
        self.inner, self.state, self.dt_bias_scale = half, state, dt_bias_scale
        self.rank = math.ceil(width / 16)
        self.project_in = nn.Linear(width, width, bias=False)
        self.convolution_scan = nn.Parameter(torch.empty(half, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.convolution_gate = nn.Parameter(torch.empty(half, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.project_scan = nn.Linear(half, self.rank + 2 * state, bias=False)
        self.project_dt = nn.Linear(self.rank, half, bias=True)
        self.log_rate = nn.Parameter(torch.log(torch.arange(1, state + 1).float()).repeat(half, 1))
        self.skip = nn.Parameter(torch.ones(half))
        self.log_rate.no_weight_decay = True  # type: ignore[attr-defined]
        self.project_out = nn.Linear(width, width, bias=False)
        self._initialise(dt_init)

    def _initialise(self, dt_init: str) -> None:
        if dt_init == "mamba":
            nn.init.uniform_(self.project_dt.weight, -(self.rank**-0.5), self.rank**-0.5)
            step = torch.exp(torch.rand(self.inner) * math.log(100.0) + math.log(0.001)).clamp(min=1e-4)
            with torch.no_grad():
                self.project_dt.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        batch, grid = x.shape[0], x.shape[1:4]
        u = self.project_in(x).flatten(1, 3).transpose(1, 2)
        u, z = u.chunk(2, dim=1)
        pad = self.convolution_scan.shape[1] // 2
        u = functional.silu(functional.conv1d(u, self.convolution_scan.unsqueeze(1), padding=pad, groups=self.inner))
        z = functional.silu(functional.conv1d(z, self.convolution_gate.unsqueeze(1), padding=pad, groups=self.inner))
        u = u.transpose(1, 2)
        dt, write, read = self.project_scan(u).split([self.rank, self.state, self.state], dim=-1)
        dt = functional.softplus(
            functional.linear(dt, self.project_dt.weight) + self.dt_bias_scale * self.project_dt.bias
        )
        rate = -torch.exp(self.log_rate.float())
        decay = torch.exp(dt.unsqueeze(-1) * rate)
        drive = (dt * u).unsqueeze(-1) * write.unsqueeze(2)
        state = torch.zeros_like(decay[:, 0])
        states = []
        for t in range(u.shape[1]):
            state = decay[:, t] * state + drive[:, t]
            states.append(state)
        y = (torch.stack(states, 1) * read.unsqueeze(2)).sum(-1) + self.skip * u
        mixed = self.project_out(torch.cat([y, z.transpose(1, 2)], dim=-1))
        return mixed.reshape(batch, grid[0], grid[1], grid[2], -1), context
