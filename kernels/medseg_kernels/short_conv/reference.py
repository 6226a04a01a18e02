"""The short depthwise convolution in torch: readable, differentiable, scriptable; also what runs without a compiler.

B batch, R traversals, N tokens, C channels, T taps. A tap is a token at a fixed distance: in steps along a traversal
(modes `causal` and `same`), or in voxels on the grid (mode `grid`).

    out[p] = act(bias + sum over taps j of weight[j] x[neighbour(p, j)])        neighbours outside read as zero
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ..traversals.curves import split_heads, traversal_order, traversal_pieces


def step_shift(mode: str, taps: int) -> int:
    """Number of the tap that reads the token itself. Scriptable."""
    return taps - 1 if mode == "causal" else (taps - 1) // 2


def step_bounds(pieces: List[int], device: torch.device) -> Tuple[Tensor, Tensor]:
    """First and one past the last step of the piece that each step belongs to, (N,) int64 each. Scriptable."""
    edges = torch.tensor(pieces, device=device)
    steps = torch.arange(pieces[len(pieces) - 1], device=device)
    piece = torch.bucketize(steps, edges[1:], right=True)  # repeat_interleave would have a size that export cannot know
    return edges[piece], edges[piece + 1]


def _convolve_steps(x: Tensor, weight: Tensor, order: Tensor, pieces: List[int], shift: int) -> Tensor:
    """x (B, N, C), weight (C, T) -> (B, N, C), along the steps of one traversal. Scriptable."""
    first, last = step_bounds(pieces, x.device)
    steps = torch.arange(order.shape[0], device=x.device)
    sequence, total = x.index_select(1, order), torch.zeros_like(x)
    for j in range(weight.shape[1]):
        other = steps + (j - shift)
        inside = (other >= first) & (other < last)
        tap = sequence.index_select(1, torch.where(inside, other, torch.zeros_like(other)))
        total = total + weight[:, j] * torch.where(inside.unsqueeze(-1), tap, torch.zeros_like(tap))
    return total.index_select(1, torch.argsort(order))


def _convolve_grid(x: Tensor, weight: Tensor, grid: List[int], kernel: List[int]) -> Tensor:
    """x (B, N, C), weight (C, T) -> (B, N, C), in three dimensions. Scriptable."""
    channels = x.shape[2]
    volume = x.transpose(1, 2).reshape(x.shape[0], channels, grid[0], grid[1], grid[2])
    pads: List[int] = []
    for side in [kernel[2], kernel[1], kernel[0]]:
        pads.extend([(side - 1) // 2, side // 2])
    filters = weight.reshape(channels, 1, kernel[0], kernel[1], kernel[2])
    return functional.conv3d(functional.pad(volume, pads), filters, groups=channels).flatten(2).transpose(1, 2)


def torch_short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    grid: List[int],
    traversals: List[str],
    mode: str,
    kernel: List[int],
    silu: bool,
) -> Tensor:
    """(B, R, N, C) in the dtype of x; computed in float32 (float64 for float64). Scriptable.

    Args:
        x: (B, N, C).
        weight: (R, C, T); T is the product of `kernel`.
        bias: (R, C) or None.
        grid: X, Y, Z.
        traversals: R texts; not looked at in mode `grid`.
        mode: causal (tap T-1 reads the token itself), same (tap (T-1)//2 does), grid (the middle does).
        kernel: [T], or the three sides in mode `grid`.
        silu: apply SiLU.
    """
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    source, weight = x.to(work), weight.to(work)
    outs: List[Tensor] = []
    for r in range(weight.shape[0]):
        if mode == "grid":
            y = _convolve_grid(source, weight[r], grid, kernel)
        else:
            names = split_heads(traversals[r])
            orders = traversal_order(traversals[r], grid, x.device)
            width = x.shape[2] // len(names)
            parts: List[Tensor] = []
            for h in range(len(names)):
                first, last = h * width, (h + 1) * width
                pieces = traversal_pieces(names[h], grid)
                shift = step_shift(mode, weight.shape[2])
                parts.append(_convolve_steps(source[:, :, first:last], weight[r, first:last], orders[h], pieces, shift))
            y = torch.cat(parts, -1)
        y = y if bias is None else y + bias[r].to(work)
        outs.append(functional.silu(y) if silu else y)
    return torch.stack(outs, 1).to(x.dtype)
