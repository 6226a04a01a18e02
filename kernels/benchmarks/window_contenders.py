"""Window attention as others compute it, from the same qkv on the grid as ours: what both window benchmarks share.

    ready windows   the rival gets tokens that are already padded, rolled and partitioned; ours finds them itself
    block           MONAI's `forward_part1` as it is (norm, pad, roll, partition, mask, projections, and all of it back)
                    against ours with the same norm and projections

MONAI's module holds the two linear projections; for ready windows they are taken out, so that no side computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets import swin_unetr
from torch import Tensor, nn
from torch.nn import functional

from medseg_kernels import window_attention


@dataclass(frozen=True)
class Shape:
    """A cubic grid with cubic windows; the shift is half a window, or none."""

    side: int
    window: int
    heads: int
    channels: int
    shifted: bool

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens per axis."""
        return (self.side,) * 3

    @property
    def shift(self) -> int:
        """Of every axis."""
        return self.window // 2 if self.shifted else 0

    @property
    def padded(self) -> int:
        """Tokens per axis with padding."""
        return -(-self.side // self.window) * self.window

    @property
    def windows(self) -> int:
        """In the volume."""
        return (self.padded // self.window) ** 3

    @property
    def tokens(self) -> int:
        """Of a window."""
        return self.window**3

    @property
    def rows(self) -> int:
        """Of the bias table."""
        return (2 * self.window - 1) ** 3

    def __str__(self) -> str:
        how = "shifted" if self.shifted else "plain"
        return f"{self.side}^3 tokens, {self.window}^3 {how}, {self.heads} heads of {self.channels}"


def leaves(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """qkv on the grid (1, X, Y, Z, 3, H, E), and the bias table in float32."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, *shape.grid, 3, shape.heads, shape.channels, generator=generator)
    table = torch.randn(shape.rows, shape.heads, generator=generator)
    return {"qkv": qkv.to(device, dtype).requires_grad_(), "table": table.to(device).requires_grad_()}


def ours(shape: Shape, given: dict[str, Tensor], backend: str | None = None) -> Tensor:
    """(1, X, Y, Z, H * E) from the grid; padded tokens take part holding zeros, as in the rivals' windows."""
    return window_attention(
        given["qkv"], shape.window, shape.shift, given["table"], pad_mode="input", bias_index="monai", backend=backend
    )


def to_windows(shape: Shape, qkv: Tensor) -> Tensor:
    """(W, T, 3 * H * E) from (1, X, Y, Z, 3, H, E), as MONAI lays its windows out."""
    tokens, more = qkv.flatten(4), shape.padded - shape.side
    if more:
        tokens = functional.pad(tokens, (0, 0, 0, more, 0, more, 0, more))
    if shape.shift:
        tokens = torch.roll(tokens, (-shape.shift,) * 3, (1, 2, 3))
    return swin_unetr.window_partition(tokens, (shape.window,) * 3)


def from_windows(shape: Shape, windows: Tensor) -> Tensor:
    """The inverse, for (W, T, H * E)."""
    tokens = swin_unetr.window_reverse(windows, (shape.window,) * 3, (1, *(shape.padded,) * 3))
    if shape.shift:
        tokens = torch.roll(tokens, (shape.shift,) * 3, (1, 2, 3))
    return tokens[:, : shape.side, : shape.side, : shape.side]


def region_mask(shape: Shape, device: Any = "cpu") -> Tensor | None:
    """MONAI's (W, T, T) of 0 and -100, or None where nothing is shifted."""
    if not shape.shift:
        return None
    return swin_unetr.compute_mask((shape.padded,) * 3, (shape.window,) * 3, (shape.shift,) * 3, torch.device(device))


class _Ready(nn.Module):
    """Stands where a projection was: gives qkv that is there already."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.qkv is not None
        return self.qkv


class Monai:
    """MONAI's `WindowAttention` on ready windows, its projections taken out.

    Args:
        sdpa: its own switch for `scaled_dot_product_attention`, which it honours without gradients only.
    """

    def __init__(self, shape: Shape, device: str = "cpu", *, sdpa: bool = False) -> None:
        width, window = shape.heads * shape.channels, (shape.window,) * 3
        self.module = swin_unetr.WindowAttention(width, shape.heads, window, use_flash_attention=sdpa).to(device)
        self.ready = _Ready()
        self.module.qkv, self.module.proj = self.ready, nn.Identity()
        self.shape, self.mask = shape, region_mask(shape, device)
        del self.module.relative_position_bias_table  # the leaf takes its place

    def __call__(self, windows: Tensor, table: Tensor) -> Tensor:
        """(W, T, H * E) from (W, T, 3 * H * E)."""
        self.module.relative_position_bias_table = table
        self.ready.qkv = windows
        return self.module(windows[..., : windows.shape[2] // 3], self.mask)


def pair_index(shape: Shape, device: str = "cpu") -> Tensor:
    """(T * T,) row of the bias table of every pair of a window's tokens."""
    axis = torch.arange(shape.window, device=device)
    place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    offset = place.unsqueeze(1) - place.unsqueeze(0) + shape.window - 1
    return (
        (offset[..., 0] * (2 * shape.window - 1) + offset[..., 1]) * (2 * shape.window - 1) + offset[..., 2]
    ).reshape(-1)


class Plain:
    """Attention written out by hand, or `scaled_dot_product_attention`, on ready windows with an additive mask.

    The bias is gathered from the table and the mask added at every call: both depend on learned values.

    Args:
        chunk: windows at a time; 0 for all at once.
    """

    def __init__(self, shape: Shape, device: str = "cpu", *, sdpa: bool, chunk: int = 0) -> None:
        self.shape, self.sdpa, self.chunk = shape, sdpa, chunk or shape.windows
        self.mask, self.index = region_mask(shape, device), pair_index(shape, device)

    def additive(self, table: Tensor) -> Tensor:
        """(W or 1, H, T, T)."""
        tokens = self.shape.tokens
        bias = table[self.index].reshape(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        return bias if self.mask is None else bias + self.mask.unsqueeze(1)

    def __call__(self, windows: Tensor, table: Tensor, additive: Tensor | None = None) -> Tensor:
        """(W, T, H * E) from (W, T, 3 * H * E); `additive` where it is at hand already."""
        s = self.shape
        q, k, v = windows.unflatten(2, (3, s.heads, s.channels)).permute(2, 0, 3, 1, 4)
        whole = (self.additive(table) if additive is None else additive).to(q.dtype)
        parts = []
        for start in range(0, s.windows, self.chunk):
            part = slice(start, start + self.chunk)
            mask = whole if len(whole) == 1 else whole[part]
            if self.sdpa:
                out = functional.scaled_dot_product_attention(q[part], k[part], v[part], mask)
            else:
                weights = ((q[part] * s.channels**-0.5) @ k[part].transpose(-2, -1) + mask).softmax(-1)
                out = weights.to(v.dtype) @ v[part]
            parts.append(out.transpose(1, 2).flatten(2))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Blocks:
    """One MONAI Swin block: its own first part, and the same with our operator."""

    def __init__(
        self, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32, *, sdpa: bool = False
    ) -> None:
        torch.manual_seed(0)
        width, window, shift = shape.heads * shape.channels, (shape.window,) * 3, (shape.shift,) * 3
        self.block = swin_unetr.SwinTransformerBlock(width, shape.heads, window, shift, use_flash_attention=sdpa)
        self.block = self.block.to(device, dtype)
        self.shape = shape
        self.x = torch.randn(1, *shape.grid, width).to(device, dtype).requires_grad_()
        self.leaves = [self.x, *self.block.norm1.parameters(), *self.block.attn.parameters()]

    def monai(self) -> Tensor:
        """As it comes; the mask is built as its layer does at every forward, for the shifted block only."""
        mask = region_mask(self.shape, self.x.device)
        return self.block.forward_part1(self.x, None if mask is None else mask.to(self.x.dtype))

    def ours(self) -> Tensor:
        """The operator in place of pad, roll, partition, attention and their inverses."""
        attention, s = self.block.attn, self.shape
        qkv = attention.qkv(self.block.norm1(self.x)).unflatten(-1, (3, s.heads, s.channels))
        y = window_attention(
            qkv, s.window, s.shift, attention.relative_position_bias_table, pad_mode="input", pad_qkv=attention.qkv.bias,
            bias_index="monai",
        )  # fmt: skip
        return attention.proj(y)


def both_ways(forward: Callable[[], Tensor], inputs: list[Tensor], grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward: the output and all gradients, with nothing accumulated."""

    def call() -> list[Tensor]:
        out = forward()
        return [out.detach(), *torch.autograd.grad(out, inputs, grad)]

    return call


def grid_results(shape: Shape, results: list[Tensor], qkv: Tensor) -> list[Tensor]:
    """Output, gradient of the windows and of the table, brought to the grid: padded tokens are dropped."""
    out, dwindows, dtable = results
    return [from_windows(shape, out), from_windows(shape, dwindows).reshape(qkv.shape), dtable]
