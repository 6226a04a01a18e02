"""Gated linear attention: every key channel forgets at a rate of its own, chosen at every token.

Source: Yang et al. 2023 (arXiv 2312.06635).
"""

from typing import List, Tuple

from torch import Tensor, nn
from torch.nn import functional

from medseg_kernels import gla

from ..contract import Context, Site
from .masking import hide
from .parts import HeadNorm, check_heads, share_heads, split_heads, wide


class GatedLinearAttention(nn.Module):
    """S_t = diag(a_t) S_(t-1) + k v^T, a_t = sigmoid(W2 W1 x + b)^(1/16); RMS norm per head, then a SiLU gate.

    Args:
        site: where it stands.
        expand_k, expand_v: key and value channels per channel.
        rank: of the decay's projection.
        traversals: orders over the grid; several are shared out over the heads.
    """

    def __init__(self, site: Site, *, expand_k: float = 0.5, expand_v: float = 1.0, rank: int = 16,
                 traversals: tuple[str, ...] = ("raster",)) -> None:  # fmt: skip
        super().__init__()
        check_heads(site, "gla")
        width, heads = site.width, site.num_heads
        keys = round(width * expand_k / heads) * heads
        values = round(width * expand_v / heads) * heads
        self.num_heads = heads
        self.traversals: List[str] = share_heads(traversals)
        self.query, self.key = nn.Linear(width, keys, bias=False), nn.Linear(width, keys, bias=False)
        self.value, self.gate = nn.Linear(width, values, bias=False), nn.Linear(width, values, bias=False)
        self.decay = nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, keys))
        self.norm = HeadNorm(values // heads)
        self.project = nn.Linear(values, width, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        valid = context.valid
        x = hide(x, valid)
        q, k = split_heads(self.query(x), self.num_heads), split_heads(self.key(x), self.num_heads)
        v = split_heads(self.value(x), self.num_heads)
        log_decay = functional.logsigmoid(wide(split_heads(self.decay(x), self.num_heads))) / 16.0
        log_decay = hide(log_decay, valid)  # keys of hidden tokens are 0 already: their map has no bias
        y, _ = gla(q, k, v, log_decay, traversals=self.traversals)
        gated = self.norm(y) * functional.silu(wide(split_heads(self.gate(x), self.num_heads)))
        return self.project(gated.to(x.dtype).flatten(-2)), context
