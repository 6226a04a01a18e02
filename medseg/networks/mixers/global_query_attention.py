"""GC ViT's global attention: keys and values from the tokens of a window, the query from the whole stage input.

H heads, E per-head channels. Source: Hatamizadeh et al. 2023.
"""

from typing import Final, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import window_attention, window_grid

from ..contract import Context, Site
from ..convolutions.gated import FusedMBConv
from ..layers.common import to_image, to_tokens
from .masking import add_channel, drop_channel, hide, mark_keys
from .parts import check_heads
from .pooling import adaptive_mean
from .window_attention import bias_table, drop_flat_axis


class GlobalQueryAttention(nn.Module):
    """softmax(q_global k^T / sqrt(E) + bias) v; q_global is one window of queries per volume, made once per stage.

    Args:
        site: where it stands; needs a window.
        steps: blocks that shrink the stage input to the window (3, 2, 1, 1 in the published stages).
    """

    spatial_dims: Final[int]

    def __init__(self, site: Site, *, steps: int = 1) -> None:
        super().__init__()
        check_heads(site, "global_query_attention")
        if site.window_size is None:
            raise ConfigError("global_query_attention: found window None, expected tokens per axis")
        self.spatial_dims, self.num_heads = site.spatial_dims, site.num_heads
        self.window: List[int] = list(site.window_size[: site.spatial_dims])
        self.scale = (site.width // site.num_heads) ** -0.5
        self.pad_mode = "mask" if site.padding == "masked" else "input"
        self.key_value = nn.Linear(site.width, 2 * site.width)
        self.project = nn.Linear(site.width, site.width)
        self.table = bias_table(tuple(self.window), site.num_heads)

    @staticmethod
    def prepare(site: Site, *, steps: int = 1) -> nn.Module:
        """The module that makes the query at stage entry."""
        return GlobalQuery(site, steps)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        query = context.query
        assert query is not None
        x = hide(x, context.valid)
        kv = drop_flat_axis(self.key_value(x), self.spatial_dims).unflatten(-1, [2, self.num_heads, -1])
        padding: Optional[Tensor] = None
        if self.pad_mode == "input":
            padding = functional.pad(self.key_value.bias, [x.shape[-1], 0])
        valid = context.valid
        if valid is not None:
            kv = mark_keys(kv, drop_flat_axis(valid, self.spatial_dims), 0)
            query = torch.cat([query, torch.ones_like(query[..., :1])], dim=-1)
            if padding is not None:
                padding = add_channel(padding.unflatten(0, [3, self.num_heads, -1]), 0).flatten()
        y = window_attention(
            kv,
            self.window,
            0,
            self.table,
            global_query=query,
            pad_mode=self.pad_mode,
            pad_qkv=padding,
            scale=self.scale,
        )
        if valid is not None:
            y = drop_channel(y, self.num_heads)
        return self.project(y).reshape(x.shape), context


class GlobalQuery(nn.Module):
    """Residual blocks and max pooling until the map is as long as the window, the rest by adaptive pooling.

    Args:
        site: of the stage.
        steps: number of blocks; an axis is halved after a block as long as a window's length is left.
    """

    spatial_dims: Final[int]

    def __init__(self, site: Site, steps: int) -> None:
        super().__init__()
        assert site.window_size is not None
        self.spatial_dims, self.num_heads = site.spatial_dims, site.num_heads
        self.window: List[int] = list(site.window_size[: site.spatial_dims])
        self.blocks = nn.ModuleList(FusedMBConv(site) for _ in range(steps))

    def forward(self, x: Tensor, context: Context) -> Context:
        image = to_image(hide(x, context.valid), self.spatial_dims)
        target, _ = window_grid(list(image.shape[2:]), self.window)
        for block in self.blocks:
            image = halve_towards(block(image), target)
        if list(image.shape[2:]) != target:
            image = adaptive_mean(image, target)
        tokens = drop_flat_axis(to_tokens(image), self.spatial_dims)
        return Context(context.carriers, tokens.unflatten(-1, [self.num_heads, -1]), context.condition, context.valid)


def halve_towards(image: Tensor, target: List[int]) -> Tensor:
    """Max pooling (3, stride 2) of the axes that stay at least as long as `target`."""
    halve = [
        (image.shape[axis + 2] + 1) // 2 >= side and image.shape[axis + 2] > side for axis, side in enumerate(target)
    ]
    kernel: List[int] = [3 if h else 1 for h in halve]
    stride: List[int] = [2 if h else 1 for h in halve]
    padding: List[int] = [1 if h else 0 for h in halve]
    if len(target) == 2:
        return functional.max_pool2d(image, kernel, stride, padding)
    return functional.max_pool3d(image, kernel, stride, padding)
