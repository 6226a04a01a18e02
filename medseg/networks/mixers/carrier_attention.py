"""FasterViT's hierarchical attention: a few carrier tokens per window attend to each other over the whole grid, then
join the attention of their window.

B batch, X Y Z grid, C channels, M carriers per window. Source: Hatamizadeh et al. 2023 (FasterViT).
"""

from typing import Final, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg_kernels import window_attention, window_attention_with_carriers, window_grid

from ..contract import Context, Site
from ..layers.common import DropPath, convolution, layer_scale, to_image, to_tokens, token_norm
from .continuous_bias import ContinuousBias, ContinuousPosition
from .masking import add_channel, drop_channel, hide, mark_keys
from .parts import check_heads
from .pooling import adaptive_mean
from .window_attention import drop_flat_axis

MOST_CARRIERS: Final[int] = 1024  # above, one carrier per window: their attention is quadratic


class CarrierAttention(nn.Module):
    """Position, carriers among themselves (attention and MLP), then windows together with their carriers.

    A whole sub-layer with its own norms and residuals, since one norm and one projection serve tokens and carriers.

    Args:
        site: where it stands; needs a window.
        per_axis: carriers per window and axis (2 in the publication); 0 is the same block without carriers, as in the
            last stage of FasterViT.
        ratio: hidden channels per channel of the carriers' MLP.
    """

    whole: Final[bool] = True
    spatial_dims: Final[int]

    def __init__(self, site: Site, *, per_axis: int = 2, ratio: float = 4.0) -> None:
        super().__init__()
        check_heads(site, "carrier_attention")
        if site.window_size is None:
            raise ConfigError("carrier_attention: found window None, expected tokens per axis")
        dims = site.spatial_dims
        self.spatial_dims, self.num_heads, self.per_axis = dims, site.num_heads, per_axis
        self.scale = (site.width // site.num_heads) ** -0.5
        self.window: List[int] = list(site.window_size[:dims])
        self.position = ContinuousPosition(dims, site.width)
        self.norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.qkv = nn.Linear(site.width, 3 * site.width)
        self.project = nn.Linear(site.width, site.width)
        self.bias = ContinuousBias(dims, site.num_heads)
        self.gain = layer_scale(site.width, site.layer_scale)
        self.drop = DropPath(site.drop_path)
        self.among = AmongCarriers(site, ratio) if per_axis > 0 else None

    @staticmethod
    def prepare(site: Site, *, per_axis: int = 2, ratio: float = 4.0) -> nn.Module:
        """The module that makes the carriers at stage entry."""
        return Carriers(site, per_axis)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        window, count = window_grid(list(x.shape[1 : 1 + self.spatial_dims]), self.window)
        x = self.position(hide(x, context.valid), window)
        qkv = self.split(self.qkv(self.norm(x)))
        table = self.bias(window)
        carriers = context.carriers
        among = self.among
        if carriers is None or among is None:
            valid = context.valid
            if valid is None:
                y = window_attention(qkv, window, 0, table)
            else:
                y = window_attention(self.marked(qkv, valid), window, 0, table, scale=self.scale)
                y = drop_channel(y, self.num_heads)
            return x + self.drop(self.gain(self.project(y).reshape(x.shape))), context
        carriers = among(carriers)
        packed = pack(carriers, count)
        wide = self.qkv(self.norm(packed)).unflatten(-1, [3, self.num_heads, -1])
        valid = context.valid
        if valid is None:
            y, z = window_attention_with_carriers(qkv, wide, window, 0, table)
        else:
            y, z = window_attention_with_carriers(
                self.marked(qkv, valid), add_channel(wide, 0), window, 0, table, scale=self.scale
            )
            y, z = drop_channel(y, self.num_heads), drop_channel(z, self.num_heads)
        x = x + self.drop(self.gain(self.project(y).reshape(x.shape)))
        packed = packed + self.drop(self.gain(self.project(z)))
        carriers = unpack(packed, count, carriers)
        return x, Context(carriers, context.query, context.condition, context.valid, among.attention_gain.gamma)

    def marked(self, qkv: Tensor, valid: Tensor) -> Tensor:
        """Queries, keys and values with the channel that keeps padding unseen."""
        return mark_keys(qkv, drop_flat_axis(valid, self.spatial_dims), 1)

    def split(self, qkv: Tensor) -> Tensor:
        """(B, X, Y, Z, 3 C) -> (B, X, Y[, Z], 3, H, E)."""
        return drop_flat_axis(qkv, self.spatial_dims).unflatten(-1, [3, self.num_heads, -1])


class AmongCarriers(nn.Module):
    """A transformer block over all carriers of a volume, with its own continuous bias."""

    spatial_dims: Final[int]

    def __init__(self, site: Site, ratio: float) -> None:
        super().__init__()
        hidden = int(site.width * ratio)
        self.spatial_dims, self.num_heads = site.spatial_dims, site.num_heads
        self.position = ContinuousPosition(site.spatial_dims, site.width)
        self.norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.qkv = nn.Linear(site.width, 3 * site.width)
        self.project = nn.Linear(site.width, site.width)
        self.bias = ContinuousBias(site.spatial_dims, site.num_heads)
        self.attention_gain = Gain(site.width, site.layer_scale)
        self.mlp_norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(site.width, hidden), nn.GELU(), nn.Linear(hidden, site.width))
        self.mlp_gain = layer_scale(site.width, site.layer_scale)
        self.drop = DropPath(site.drop_path)

    def forward(self, carriers: Tensor) -> Tensor:
        grid: List[int] = list(carriers.shape[1 : 1 + self.spatial_dims])
        carriers = self.position(carriers, grid)
        qkv = drop_flat_axis(self.qkv(self.norm(carriers)), self.spatial_dims).unflatten(-1, [3, self.num_heads, -1])
        y = window_attention(qkv, grid, 0, self.bias(grid))
        carriers = carriers + self.drop(self.attention_gain(self.project(y).reshape(carriers.shape)))
        return carriers + self.drop(self.mlp_gain(self.mlp(self.mlp_norm(carriers))))


class Carriers(nn.Module):
    """Carriers from the stage's input: depthwise convolution, then the mean of each window's parts."""

    spatial_dims: Final[int]

    def __init__(self, site: Site, per_axis: int) -> None:
        super().__init__()
        assert site.window_size is not None
        self.spatial_dims, self.per_axis, self.most = site.spatial_dims, per_axis, MOST_CARRIERS
        self.window: List[int] = list(site.window_size[: site.spatial_dims])
        self.depthwise: nn.Module = nn.Identity()
        if per_axis > 0:
            self.depthwise = convolution(site.spatial_dims, site.width, site.width, 3, groups=site.width)

    def forward(self, x: Tensor, context: Context) -> Context:
        if self.per_axis == 0:
            return context
        valid = context.valid
        image = to_image(
            hide(to_tokens(self.depthwise(to_image(hide(x, valid), self.spatial_dims))), valid), self.spatial_dims
        )
        window, count = window_grid(list(image.shape[2:]), self.window)
        total = 1
        for windows in count:
            total *= windows * self.per_axis
        parts: List[int] = []
        for axis, side in enumerate(window):
            each = min(self.per_axis, side) if total <= self.most else 1
            parts.append(each * count[axis])
        pooled = pool_to(image, parts, window)
        if valid is not None:  # the mean of the real tokens alone
            share = pool_to(to_image(valid.unsqueeze(-1).to(image.dtype), self.spatial_dims), parts, window)
            pooled = pooled / share.clamp(min=1e-6)
        return Context(to_tokens(pooled), context.query, context.condition, valid)


def pool_to(image: Tensor, parts: List[int], window: List[int]) -> Tensor:
    """Means of boxes, `parts` of them per axis.

    On a grid of whole windows, as published, boxes of equal length that overlap: stride n // p, length n - (p - 1) (n // p).
    On any other grid that rule would blur the carriers far beyond their windows, and the boxes are those of adaptive pooling.
    """
    kernel: List[int] = []
    stride: List[int] = []
    whole = True
    for axis in range(len(parts)):
        length, count = image.shape[axis + 2], parts[axis]
        whole = whole and length % window[axis] == 0
        stride.append(length // count)
        kernel.append(length - (count - 1) * (length // count))
    if not whole:
        return adaptive_mean(image, parts)
    if len(parts) == 2:
        return functional.avg_pool2d(image, kernel, stride)
    return functional.avg_pool3d(image, kernel, stride)


class CarrierMLP(nn.Module):
    """The MLP that follows: the same norm and weights for tokens and carriers. A whole sub-layer.

    Args:
        site: where it stands.
        ratio: hidden channels per channel.
    """

    whole: Final[bool] = True

    def __init__(self, site: Site, *, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(site.width * ratio)
        self.norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(site.width, hidden), nn.GELU(), nn.Linear(hidden, site.width))
        self.gain = layer_scale(site.width, site.layer_scale)
        self.drop = DropPath(site.drop_path)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        x = x + self.drop(self.gain(self.mlp(self.norm(x))))
        carriers: Optional[Tensor] = context.carriers
        if carriers is not None:
            carriers = carriers + self.drop(self.gain(self.mlp(self.norm(carriers))))
        return x, Context(carriers, context.query, context.condition, context.valid, context.gain)


class CarrierSpread(nn.Module):
    """x + gain * carriers, each carrier over its part of its window: the end of a stage in FasterViT's sizes 3 to 6.

    A whole sub-layer without parameters: the gain is that of the last attention among carriers.

    Args:
        site: where it stands; needs a window.
        on: false leaves the map as it is.
    """

    whole: Final[bool] = True
    on: Final[bool]

    def __init__(self, site: Site, *, on: bool = True) -> None:
        super().__init__()
        assert site.window_size is not None
        self.window: List[int] = list(site.window_size[: site.spatial_dims])
        self.on = on

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        carriers, gain = context.carriers, context.gain
        if carriers is None or not self.on:
            return x, context
        window, count = window_grid(list(x.shape[1 : 1 + len(self.window)]), self.window)
        given = carriers
        for axis, side in enumerate(window):
            each = carriers.shape[axis + 1] // count[axis]
            place = torch.arange(x.shape[axis + 1], device=x.device)
            given = given.index_select(axis + 1, place // side * each + place % side * each // side)
        return x + (given if gain is None else gain * given), context


class Gain(nn.Module):
    """Layer scale whose gain others may read; none where `initial` is None."""

    gamma: Optional[Tensor]

    def __init__(self, width: int, initial: Optional[float]) -> None:
        super().__init__()
        self.gamma = None if initial is None else nn.Parameter(torch.full((width,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma
        return x if gamma is None else x * gamma


def pack(carriers: Tensor, count: List[int]) -> Tensor:
    """(B, Xc, Yc, Zc, C) -> (B, windows, M, C), both in raster order; `count` windows per axis."""
    nx, ny = count[0], count[1]
    nz = count[2] if len(count) == 3 else 1
    batch, width = carriers.shape[0], carriers.shape[4]
    split = carriers.reshape(
        batch, nx, carriers.shape[1] // nx, ny, carriers.shape[2] // ny, nz, carriers.shape[3] // nz, width
    )
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, nx * ny * nz, -1, width)


def unpack(packed: Tensor, count: List[int], like: Tensor) -> Tensor:
    """The inverse of `pack`; `like` has the carriers' grid."""
    nx, ny = count[0], count[1]
    nz = count[2] if len(count) == 3 else 1
    split = packed.reshape(
        packed.shape[0], nx, ny, nz, like.shape[1] // nx, like.shape[2] // ny, like.shape[3] // nz, packed.shape[-1]
    )
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(like.shape)
