"""The mLSTM layer of xLSTM in its vision form: exponential input gate, normaliser, learned skip, outer gate.

Source: Beck et al. 2024 (arXiv 2405.04517), Alkin et al. 2024 (ViL).
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import mlstm

from ..contract import Context, Site
from .masking import exclude, hide
from .parts import LocalMix, keep_from_decay, split_heads, wide


class BlockLinear(nn.Module):
    """A linear map of each small block of channels by itself, without bias."""

    def __init__(self, width: int, block: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width // block, block, block))
        nn.init.normal_(self.weight, std=(2.0 / (5.0 * block)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        blocks, size = self.weight.shape[0], self.weight.shape[1]
        return torch.einsum("...bi,boi->...bo", x.unflatten(-1, [blocks, size]), self.weight.to(x.dtype)).flatten(-2)


class MLSTM(nn.Module):
    """[m, z] = W x; q, k from silu(conv(m)), v from m; h = norm(mLSTM(q, k, v)) + skip * conv; W_out (h * silu(z)).

    Args:
        site: where it stands; `num_heads` heads (4 in the paper).
        expand: inner channels per channel.
        block: channels per block of the q, k, v maps.
        traversals: orders over the grid. One is the published form; several are averaged.
        local_mix: `causal` (published, 4 taps, with bias) or `grid`.
    """

    def __init__(self, site: Site, *, expand: int = 2, block: int = 4, traversals: tuple[str, ...] = ("raster",),
                 local_mix: str = "causal") -> None:  # fmt: skip
        super().__init__()
        inner, heads = site.width * expand, site.num_heads
        if inner % heads or inner % block:
            raise ConfigError(
                f"mlstm: found {inner} inner channels, {heads} heads, blocks of {block}; both must divide"
            )
        self.num_heads, self.inner = heads, inner
        self.traversals: List[str] = list(traversals)
        self.project_in = nn.Linear(site.width, 2 * inner, bias=False)
        # one convolution per order: each follows its own, with the same taps
        self.mix = LocalMix(site, inner, kind=local_mix, bias=True, traversals=traversals[:1])
        self.causal = local_mix == "causal"
        self.query, self.key = BlockLinear(inner, block), BlockLinear(inner, block)
        self.value = BlockLinear(inner, block)
        self.gates = nn.Linear(3 * inner, 2 * heads)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:heads].normal_(0.0, 0.1)
            self.gates.bias[heads:] = torch.linspace(3.0, 6.0, heads)
        self.norm_gain = keep_from_decay(nn.Parameter(torch.ones(heads, inner // heads)))
        self.skip = keep_from_decay(nn.Parameter(torch.ones(inner)))
        self.project_out = nn.Linear(inner, site.width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        m, z = self.project_in(hide(x, valid)).chunk(2, dim=-1)
        if not self.causal or len(self.traversals) == 1:
            h = self.read(m, self.mix(m), valid, self.traversals)
        else:
            h = torch.zeros_like(m)
            for order in self.traversals:
                h = h + self.read(m, self.mix.along(m, [order]), valid, [order]) / len(self.traversals)
        return self.project_out(h * functional.silu(z)), context

    def read(self, m: Tensor, mixed: Tensor, valid: Optional[Tensor], traversals: List[str]) -> Tensor:
        """norm(mLSTM(q, k, v)) + skip * conv, (B, X, Y, Z, inner); several orders are averaged before the norm."""
        q, k, v = self.query(mixed), self.key(mixed), self.value(m)
        gates = wide(self.gates(torch.cat([q, k, v], dim=-1)))
        taken, kept = gates[..., : self.num_heads], gates[..., self.num_heads :]
        y, _ = mlstm(
            split_heads(q, self.num_heads), split_heads(k, self.num_heads), split_heads(v, self.num_heads),
            exclude(taken, valid), exclude(kept, valid, 30000.0), traversals=traversals, merge="mean",
        )  # fmt: skip
        h = functional.layer_norm(wide(y), [y.shape[-1]], eps=1e-5) * wide(self.norm_gain)
        return h.flatten(-2).to(m.dtype) + self.skip.to(m.dtype) * mixed
