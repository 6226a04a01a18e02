"""Hyena over a grid: gates multiplied with convolutions as long as the grid, whose filters are functions of the offset.

B batch, X Y Z grid, C channels, P offsets along the axes (2X - 1, 2Y - 1, 2Z - 1). Sources: Poli et al. 2023 (arXiv 2302.10866,
Hyena); several axes and looking in all directions after Zimerman and Wolf 2023 (arXiv 2309.13600) and Spravil et al. 2024 (arXiv
2402.19305, HyenaPixel). Ours: zeros beyond the grid, nothing wraps round; exponential fading at a learned rate per channel; a
filter depends on offsets in tokens, so that one network fits grids of any size.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import short_conv

from ..contract import Context, Site
from .masking import hide
from .parts import PlainTaps, keep_from_decay, wide

REFERENCE = 16  # tokens per axis for which filters are scaled where the training grid is not known
GAIN = 4.0  # variance of a filter's hidden units, undone, as measured
SLOWEST, FASTEST = 1.0, 0.1  # lengths after which filters have faded, as shares of the reference


class HyenaND(PlainTaps):
    """[v, g_1 ... g_n] = taps * (W x); v = g_i (h_i * v + d_i v) for every i; W v.

    Args:
        site: where it stands; its `grid` scales the offsets.
        order: n, long convolutions.
        kernel: taps per axis of the short convolution, odd.
        filter_width: hidden units of the map from offsets to filters.
        bands: sines and cosines per axis that this map reads.
        frequency: factor of the offsets inside its sine activations.
    """

    def __init__(self, site: Site, *, order: int = 2, kernel: int = 3, filter_width: int = 32, bands: int = 4,
                 frequency: float = 1.0) -> None:  # fmt: skip
        super().__init__()
        if order < 1 or kernel % 2 == 0 or kernel < 1 or min(filter_width, bands) < 1:
            raise ConfigError(
                f"hyena_nd: found order {order}, kernel {kernel}, filter_width {filter_width}, bands {bands}; expected at "
                "least 1 of each, and an odd kernel"
            )
        width, self.order, self.bands, self.frequency = site.width, order, bands, frequency
        reference = site.grid if site.grid is not None else (REFERENCE,) * site.spatial_dims
        self.reference: List[float] = [float(max(side, 2)) for side in (*reference, 2)[:3]]
        self.project_in = nn.Linear(width, (order + 1) * width)
        shape = [(order + 1) * width, kernel, kernel, kernel if site.spatial_dims == 3 else 1]
        bound = math.prod(shape[1:]) ** -0.5
        self.taps = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.taps_bias = keep_from_decay(nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)))
        self.filter_in = nn.Linear(3 * (1 + 2 * bands), filter_width)
        self.filter_hidden = nn.Linear(filter_width, filter_width)
        self.filter_out = nn.Linear(filter_width, order * width, bias=False)
        rates = torch.logspace(-math.log10(SLOWEST), -math.log10(FASTEST), width).repeat(order)
        # so that a filter over the reference grid about keeps the variance of what it convolves: fewer tokens count where it fades
        shares = rates ** (site.spatial_dims / 2) * (GAIN / filter_width / math.prod(reference)) ** 0.5
        with torch.no_grad():
            self.filter_out.weight.normal_().mul_(shares.unsqueeze(1))
        self.log_rate = keep_from_decay(nn.Parameter(rates.log()))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(order, width)))
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        mixed = short_conv(hide(self.project_in(hide(x, valid)), valid), self.taps, self.taps_bias, mode="grid")
        parts = mixed.unflatten(-1, [self.order + 1, -1]).unbind(-2)
        filters = self.filters(x.shape[1], x.shape[2], x.shape[3])
        v = wide(hide(parts[0], valid))
        for n in range(self.order):
            v = wide(parts[n + 1]) * (self.convolve(v, filters[n].to(v.dtype)) + self.skip[n].to(v.dtype) * v)
            v = hide(v, valid)
        return self.project_out(v.to(mixed.dtype)), context

    def filters(self, size_x: int, size_y: int, size_z: int) -> Tensor:
        """(order, 2X - 1, 2Y - 1, 2Z - 1, C): the weight of a token by its offset from the one that reads."""
        weight = self.filter_in.weight
        axes: List[Tensor] = []
        for axis, side in enumerate([size_x, size_y, size_z]):
            steps = torch.arange(1 - side, side, device=weight.device).to(wide(weight).dtype)
            axes.append(steps / self.reference[axis])
        offsets = torch.stack(torch.meshgrid(axes[0], axes[1], axes[2], indexing="ij"), -1)
        features = [offsets]
        for band in range(self.bands):
            angle = math.pi * (band + 1) * offsets
            features.append(torch.sin(angle))
            features.append(torch.cos(angle))
        h = self.mapped(torch.cat(features, -1))
        distance = offsets.square().sum(-1, keepdim=True).sqrt()
        h = h * torch.exp(-distance * wide(self.log_rate).exp())
        return h.unflatten(-1, [self.order, -1]).permute(3, 0, 1, 2, 4)

    def mapped(self, features: Tensor) -> Tensor:
        """(P, features) -> (P, order * C)."""
        h = self.filter_in(features.to(self.filter_in.weight.dtype))
        h = self.filter_hidden(torch.sin(self.frequency * h))
        return wide(self.filter_out(torch.sin(self.frequency * h)))

    def convolve(self, v: Tensor, weight: Tensor) -> Tensor:
        """(B, X, Y, Z, C) with one filter, by Fourier transforms; in scripted, traced and exported models directly."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return direct_convolution(v, weight)
        return self.eager(v, weight)

    @torch.jit.unused
    def eager(self, v: Tensor, weight: Tensor) -> Tensor:
        """The form that a recorded model can hold everywhere, or the quick one."""
        if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
            return direct_convolution(v, weight)
        return fourier_convolution(v, weight)


def direct_convolution(v: Tensor, weight: Tensor) -> Tensor:
    """out[p] = sum over q of weight[p - q] v[q], zeros beyond the grid, as a depthwise convolution: N^2 products.

    Args:
        v: (B, X, Y, Z, C).
        weight: (2X - 1, 2Y - 1, 2Z - 1, C).
    """
    kernel = weight.flip([0, 1, 2]).permute(3, 0, 1, 2).unsqueeze(1)
    padding = [v.shape[1] - 1, v.shape[2] - 1, v.shape[3] - 1]
    y = functional.conv3d(v.permute(0, 4, 1, 2, 3), kernel, None, [1, 1, 1], padding, [1, 1, 1], v.shape[4])
    return y.permute(0, 2, 3, 4, 1)


def fourier_convolution(v: Tensor, weight: Tensor) -> Tensor:
    """`direct_convolution` by real Fourier transforms of twice the grid, so that nothing wraps round: N log N."""
    sides = list(v.shape[1:4])
    sizes = [2 * side if side > 1 else 1 for side in sides]
    pads: List[int] = []
    for side, size in zip(reversed(sides), reversed(sizes), strict=True):
        pads += [0, size - (2 * side - 1)]
    # offset 0 to index 0, offsets below 0 to the end
    kernel = torch.roll(functional.pad(weight, [0, 0, *pads]), [1 - side for side in sides], [0, 1, 2])
    spectrum = torch.fft.rfftn(kernel, dim=(0, 1, 2))
    product = torch.fft.rfftn(v, s=sizes, dim=(1, 2, 3)) * spectrum
    return torch.fft.irfftn(product, s=sizes, dim=(1, 2, 3))[:, : sides[0], : sides[1], : sides[2]]
