"""DiffiT's attention: queries, keys and values are the sum of a map of the token and a map of a conditioning vector.

Source: Hatamizadeh et al. 2024 (DiffiT). Time or any other condition enters here only; nothing is shifted or gated.
"""

from typing import Final, List, Optional, Tuple

from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg_kernels import window_attention

from ..contract import Context, Site
from .masking import add_channel, drop_channel, hide, mark_keys
from .parts import check_heads
from .window_attention import bias_table, drop_flat_axis


class TimeAttention(nn.Module):
    """[q; k; v] = W_s x + W_t c, both with bias; softmax(q k^T / sqrt(E) + table) v within each window.

    Args:
        site: where it stands; `condition_width` channels of c, which is one vector per sample (B, C) or per token
            (B, X, Y, Z, C). One per sample moves all logits of a query alike, and acts by the bias of each key and by what is
            added to the values; one per token acts by all three parts. Window None is the whole grid, without a table.
    """

    spatial_dims: Final[int]
    window: List[int]

    def __init__(self, site: Site) -> None:
        super().__init__()
        check_heads(site, "time_attention")
        if site.condition_width < 1:
            raise ConfigError("time_attention: no conditioning vector; expected build_network(..., condition_width=C)")
        self.spatial_dims, self.num_heads = site.spatial_dims, site.num_heads
        self.window = list((site.window_size or ())[: site.spatial_dims])
        self.scale = (site.width // site.num_heads) ** -0.5
        self.spatial = nn.Linear(site.width, 3 * site.width)
        self.temporal = nn.Linear(site.condition_width, 3 * site.width)
        self.project = nn.Linear(site.width, site.width)
        self.table = bias_table(tuple(self.window), site.num_heads) if self.window else None

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        condition = context.condition
        assert condition is not None, "the network was called without its condition"
        qkv = drop_flat_axis(self.spatial(hide(x, context.valid)), self.spatial_dims).unflatten(
            -1, [3, self.num_heads, -1]
        )
        grid: List[int] = list(qkv.shape[1 : 1 + self.spatial_dims])
        sample: Optional[Tensor] = None
        told = self.temporal(condition)
        if condition.dim() == 2:  # one vector per sample: the kernel adds it, no map is made of it
            sample = told
        else:
            qkv = qkv + drop_flat_axis(told, self.spatial_dims).unflatten(-1, [3, self.num_heads, -1])
        valid = context.valid
        if valid is not None:
            qkv = mark_keys(qkv, drop_flat_axis(valid, self.spatial_dims), 1)
            if sample is not None:
                sample = add_channel(sample.unflatten(-1, [3, self.num_heads, -1]), -1)
        window = grid if len(self.window) == 0 else self.window
        y = window_attention(qkv, window, 0, self.table, sample_qkv=sample, scale=self.scale)
        if valid is not None:
            y = drop_channel(y, self.num_heads)
        return self.project(y).reshape(x.shape), context
