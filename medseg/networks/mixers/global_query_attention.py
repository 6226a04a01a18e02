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
from ..layers.common import crop_tokens, fill_windows, to_image, to_tokens
from .masking import drop_channel, hide, mark_keys
from .parts import check_heads
from .pooling import adaptive_mean, cubic
from .window_attention import bias_table, drop_flat_axis


class GlobalQueryAttention(nn.Module):
    """softmax(q_global k^T / sqrt(E) + bias) v; q_global is one window of queries per volume, made once per stage.

    Args:
        site: where it stands; needs a window.
        steps: blocks that shrink the stage input to the window (3, 2, 1, 1 in the published stages).
        pools: how many of them halve the map with published padding (3, 2, 1, 0), unless it is a window already.
    """

    spatial_dims: Final[int]

    def __init__(self, site: Site, *, steps: int = 1, pools: Optional[int] = None) -> None:
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
    def prepare(site: Site, *, steps: int = 1, pools: Optional[int] = None) -> nn.Module:
        """The module that makes the query at stage entry."""
        return GlobalQuery(site, steps, pools)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        query = context.query
        assert query is not None
        given, valid = x, context.valid
        x = hide(x, valid)
        if self.pad_mode == "input":  # whole windows of zeros behind the norm, as published; they take part
            x, valid = fill_windows(x, self.window), None
        kv = drop_flat_axis(self.key_value(x), self.spatial_dims).unflatten(-1, [2, self.num_heads, -1])
        if valid is not None:
            kv = mark_keys(kv, drop_flat_axis(valid, self.spatial_dims), 0)
            query = torch.cat([query, torch.ones_like(query[..., :1])], dim=-1)
        y = window_attention(
            kv,
            self.window,
            0,
            self.table,
            global_query=query,
            pad_mode=self.pad_mode,
            scale=self.scale,
        )
        if valid is not None:
            y = drop_channel(y, self.num_heads)
        return crop_tokens(self.project(y).reshape(x.shape), given), context


class GlobalQuery(nn.Module):
    """Residual blocks and max pooling until the map is as long as the window, the rest by resizing.

    With masked padding an axis is halved after a block as long as a window's length is left, and means of boxes are taken
    where it is still longer. With published padding every axis is halved `pools` times and the map resized by cubic
    interpolation, to a window that is never clipped.

    Args:
        site: of the stage.
        steps: number of blocks.
        pools: see above.
    """

    spatial_dims: Final[int]
    published: Final[bool]

    def __init__(self, site: Site, steps: int, pools: Optional[int] = None) -> None:
        super().__init__()
        assert site.window_size is not None
        self.spatial_dims, self.num_heads = site.spatial_dims, site.num_heads
        self.pools = steps if pools is None else pools
        self.published = site.padding == "published"
        self.window: List[int] = list(site.window_size[: site.spatial_dims])
        self.blocks = nn.ModuleList(FusedMBConv(site) for _ in range(steps))

    def forward(self, x: Tensor, context: Context) -> Context:
        image = to_image(hide(x, context.valid), self.spatial_dims)
        target, _ = window_grid(list(image.shape[2:]), self.window)
        if self.published:
            target = self.window
        for number, block in enumerate(self.blocks):
            image = block(image)
            if not self.published:
                image = halve_towards(image, target)
            elif number < self.pools and list(image.shape[2:]) != target:
                image = halve(image, [True] * self.spatial_dims)
        if list(image.shape[2:]) != target:
            image = cubic(image, target) if self.published else adaptive_mean(image, target)
        tokens = drop_flat_axis(to_tokens(image), self.spatial_dims)
        return Context(context.carriers, tokens.unflatten(-1, [self.num_heads, -1]), context.condition, context.valid)


def halve_towards(image: Tensor, target: List[int]) -> Tensor:
    """Max pooling (3, stride 2) of the axes that stay at least as long as `target`."""
    return halve(image, [
        (image.shape[axis + 2] + 1) // 2 >= side and image.shape[axis + 2] > side for axis, side in enumerate(target)
    ])  # fmt: skip


def halve(image: Tensor, axes: List[bool]) -> Tensor:
    """Max pooling (3, stride 2) of the axes that are marked."""
    kernel: List[int] = [3 if h else 1 for h in axes]
    stride: List[int] = [2 if h else 1 for h in axes]
    padding: List[int] = [1 if h else 0 for h in axes]
    if len(axes) == 2:
        return functional.max_pool2d(image, kernel, stride, padding)
    return functional.max_pool3d(image, kernel, stride, padding)
