"""Softmax attention inside windows of the grid: block, shifted, grid, stripe, axial and sliding windows.

H heads, E per-head channels. 2D tokens drop their last axis of length 1 before the operator.
"""

from dataclasses import replace
from typing import Final, List, Optional, Tuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg_kernels import window_attention

from ..contract import Context, Site
from ..layers.common import convolution, crop_tokens, fill_windows, to_image, to_tokens
from .masking import add_channel, drop_channel, hide, mark_keys
from .parts import check_heads, keep_from_decay


def drop_flat_axis(x: Tensor, spatial_dims: int) -> Tensor:
    """(B, X, Y, Z, ...) -> (B, X, Y, ...) for 2D networks."""
    return x.squeeze(3) if spatial_dims == 2 else x


def bias_table(window: Tuple[int, ...], num_heads: int) -> nn.Parameter:
    """Relative-position table (prod(2 w - 1), H), last axis fastest, standard deviation 0.02."""
    entries = 1
    for side in window:
        entries *= 2 * side - 1
    return keep_from_decay(nn.Parameter(torch.randn(entries, num_heads) * 0.02))


class WindowAttention(nn.Module):
    """softmax(q k^T / sqrt(E) + bias) v within each window; the projections are shared by all windows.

    Args:
        site: where it stands; window None is the whole grid.
        shift: fraction of the window by which windows are moved cyclically; `alternate` moves every second mixer of
            a stage by half a window.
        bias: `table` (learned, relative) or `none`.
        geometry: `block`, `grid` (tokens spread evenly over the grid) or `stripe` (bars along one axis per head group).
        radius: greatest distance between query and key per axis, in tokens: a sliding window over the whole grid.
        bias_index: how a clipped window reads the table; `monai` for weights trained by MONAI.
        local: add a depthwise 3x3x3 convolution of the values (CSWin's locally-enhanced positions).
        fill: with published padding, fill the grid up to whole windows also where it is shorter than one (GC ViT) instead
            of clipping the window (Swin).
    """

    fill: Final[bool]
    spatial_dims: Final[int]
    window: List[int]
    shift: List[int]

    def __init__(self, site: Site, *, shift: str = "none", bias: str = "table", geometry: str = "block",
                 radius: Optional[int] = None, bias_index: str = "geometric", local: bool = False,
                 fill: bool = False) -> None:  # fmt: skip
        super().__init__()
        check_heads(site, "window_attention")
        dims = site.spatial_dims
        window = None if radius is not None or site.window_size is None else site.window_size[:dims]
        if window is None and bias == "table":
            bias = "none"  # a table needs a window of a fixed size
        if shift not in ("none", "half", "alternate") or bias not in ("table", "none"):
            raise ConfigError(f"window_attention: found shift {shift!r}, bias {bias!r}; expected none, half or alternate "
                              "and table or none")  # fmt: skip
        self.spatial_dims, self.num_heads = dims, site.num_heads
        self.geometry, self.bias_index = geometry, bias_index
        self.pad_mode = "mask" if site.padding == "masked" else "input"
        self.window = list(window or ())
        self.fill = fill and window is not None and site.padding == "published"
        self.scale = (site.width // site.num_heads) ** -0.5
        moved = shift == "half" or (shift == "alternate" and site.index % 2 == 1)
        self.shift = [side // 2 if moved else 0 for side in self.window]
        self.radius: Optional[List[int]] = None if radius is None else [radius] * dims
        self.qkv = nn.Linear(site.width, 3 * site.width)
        self.project = nn.Linear(site.width, site.width)
        self.table = bias_table(window, site.num_heads) if window is not None and bias == "table" else None
        self.adds_local = local
        self.local: nn.Module = nn.Identity()
        if local:
            self.local = convolution(dims, site.width, site.width, 3, groups=site.width)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        if self.fill:
            y = self.attend(fill_windows(hide(x, context.valid), self.window), None)
            return crop_tokens(y, x), context
        return self.attend(x, context.valid), context

    def attend(self, x: Tensor, valid: Optional[Tensor]) -> Tensor:
        """The attention's branch (B, X, Y, Z, C)."""
        qkv = drop_flat_axis(self.qkv(hide(x, valid)), self.spatial_dims).unflatten(-1, [3, self.num_heads, -1])
        grid: List[int] = list(qkv.shape[1 : 1 + self.spatial_dims])
        whole = len(self.window) == 0
        pad_qkv: Optional[Tensor] = self.qkv.bias if self.pad_mode == "input" else None
        asked = qkv
        if valid is not None:
            asked = mark_keys(qkv, drop_flat_axis(valid, self.spatial_dims), 1)
            if pad_qkv is not None:
                pad_qkv = add_channel(pad_qkv.unflatten(0, [3, self.num_heads, -1]), 0).flatten()
        y = window_attention(
            asked,
            grid if whole else self.window,
            [0] * self.spatial_dims if whole else self.shift,
            self.table,
            bias_index=self.bias_index,
            pad_mode=self.pad_mode,
            pad_qkv=pad_qkv,
            geometry=self.geometry,
            radius=self.radius,
            scale=self.scale,
        )
        y = (y if valid is None else drop_channel(y, self.num_heads)).reshape(x.shape)
        if self.adds_local:
            values = hide(qkv.select(-3, 2).reshape(x.shape), valid)
            y = y + to_tokens(self.local(to_image(values, self.spatial_dims)))
        return self.project(y)


class ShiftedWindowAttention(WindowAttention):
    """Window attention whose windows are moved by half a window (every second block of Swin)."""

    def __init__(self, site: Site, *, bias: str = "table", bias_index: str = "geometric") -> None:
        super().__init__(site, shift="half", bias=bias, bias_index=bias_index)


class GridAttention(WindowAttention):
    """Attention among tokens spread evenly over the grid (MaxViT's second half; dilated windows)."""

    def __init__(self, site: Site, *, bias: str = "table") -> None:
        super().__init__(site, bias=bias, geometry="grid")


class StripeAttention(WindowAttention):
    """Cross-shaped stripes (CSWin): the heads fall into one group per axis, each attends in bars along its axis.

    Args:
        site: where it stands; its window is the thickness of the bars. The heads must be a multiple of the axes.
        local: add a depthwise 3x3x3 convolution of the values (locally-enhanced position encoding).
    """

    def __init__(self, site: Site, *, local: bool = True) -> None:
        super().__init__(site, bias="none", geometry="stripe", local=local)
        if site.window_size is None or site.num_heads % site.spatial_dims:
            raise ConfigError(
                f"stripe_attention: found {site.num_heads} heads, window {site.window_size}; expected a multiple of "
                f"{site.spatial_dims} heads (one group per axis) and a window (the thickness of the bars)"
            )


class AxialAttention(StripeAttention):
    """Attention along one axis per head group: stripes of thickness 1."""

    def __init__(self, site: Site) -> None:
        super().__init__(replace(site, window_size=(1, 1, 1)), local=False)


class SlidingWindowAttention(WindowAttention):
    """Every token attends to the tokens within `radius` of it on every axis (neighbourhood attention).

    Args:
        site: where it stands; the radius is half its window where none is given.
        radius: in tokens.
    """

    def __init__(self, site: Site, *, radius: Optional[int] = None) -> None:
        if radius is None:
            radius = 3 if site.window_size is None else max(1, max(site.window_size) // 2)
        super().__init__(site, bias="none", radius=radius)
