"""Softmax attention over all tokens of the grid."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..contract import Context, Site
from .masking import hide, key_scores
from .parts import check_heads


class FullAttention(nn.Module):
    """softmax(q k^T / sqrt(E)) v over the whole grid.

    Args:
        site: where it stands.
        bias: of the projections.
        key_heads: heads that keys and values have (grouped-query attention); all if None.
    """

    def __init__(self, site: Site, *, bias: bool = True, key_heads: int | None = None) -> None:
        super().__init__()
        check_heads(site, "full_attention")
        self.num_heads = site.num_heads
        self.key_heads = site.num_heads if key_heads is None else key_heads
        check_heads(site, "full_attention", self.key_heads)
        channels = site.width // site.num_heads
        self.query = nn.Linear(site.width, site.width, bias=bias)
        self.key_value = nn.Linear(site.width, 2 * self.key_heads * channels, bias=bias)
        self.project = nn.Linear(site.width, site.width, bias=bias)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        grid = x.shape[1:4]
        tokens = hide(x, context.valid).flatten(1, 3)
        q = self.query(tokens).unflatten(-1, [self.num_heads, -1]).transpose(1, 2)
        kv = self.key_value(tokens).unflatten(-1, [2, self.key_heads, -1]).permute(2, 0, 3, 1, 4)
        k, v = kv[0], kv[1]
        if self.key_heads != self.num_heads:
            k = k.repeat_interleave(self.num_heads // self.key_heads, 1)
            v = v.repeat_interleave(self.num_heads // self.key_heads, 1)
        valid, mask = context.valid, torch.jit.annotate(Optional[Tensor], None)
        if valid is not None:
            mask = key_scores(valid).to(q.dtype).flatten(1)[:, None, None]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.project(y).unflatten(1, [grid[0], grid[1], grid[2]]), context
