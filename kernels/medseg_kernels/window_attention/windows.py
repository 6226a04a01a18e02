"""Where every token of a window lies: the index arithmetic of window attention, written down once.

Everything is three-dimensional here; a 2D grid is a grid with a first axis of length 1. Per axis, with a grid of length
G, windows of w tokens and a cyclic shift s:

    a grid no longer than the window is one window: w = G, s = 0               (effective_window)
    windows: n = ceil(G / w), padded length P = n w
    token l of window k sits at   p = k w + l   (block)   or   p = l n + k   (grid, that is dilated)
    it reads the grid at          (p + s) mod P; a position >= G is padding
    region of the token: 1 if s > 0 and p >= P - s (it wrapped around), else 0; only equal regions see each other

The region rule equals the usual one with three bands per axis: only an axis' last window holds two bands.
All functions can be scripted by TorchScript.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

GEOMETRIES = ("block", "grid", "stripe")


def product(sizes: List[int]) -> int:
    """Product of a list of integers (math.prod that TorchScript understands)."""
    result = 1
    for size in sizes:
        result = result * size
    return result


def effective_window(grid: List[int], window: List[int], shift: List[int]) -> Tuple[List[int], List[int]]:
    """Window and shift that are used on this grid: an axis no longer than its window becomes one unshifted window."""
    sizes: List[int] = []
    shifts: List[int] = []
    for axis in range(len(grid)):
        clipped = grid[axis] <= window[axis]
        sizes.append(grid[axis] if clipped else window[axis])
        shifts.append(0 if clipped else shift[axis])
    return sizes, shifts


def windows_per_axis(grid: List[int], window: List[int]) -> List[int]:
    """Number of windows along each axis, the last one padded if need be."""
    counts: List[int] = []
    for axis in range(len(grid)):
        counts.append((grid[axis] + window[axis] - 1) // window[axis])
    return counts


def _axis_positions(count: int, size: int, geometry: str, device: torch.device) -> Tensor:
    """(windows, tokens) -> shifted position p of one axis."""
    windows = torch.arange(count, device=device).unsqueeze(1)
    tokens = torch.arange(size, device=device).unsqueeze(0)
    if geometry == "grid":
        return tokens * count + windows
    return windows * size + tokens


def _spread(parts: List[Tensor]) -> List[Tensor]:
    """Three (windows_a, tokens_a) tables -> views of shape (n0, n1, n2, w0, w1, w2), to be broadcast together."""
    x, y, z = parts[0], parts[1], parts[2]
    return [x[:, None, None, :, None, None], y[None, :, None, None, :, None], z[None, None, :, None, None, :]]


def token_index(
    grid: List[int], window: List[int], shift: List[int], geometry: str, device: torch.device
) -> Tuple[Tensor, Tensor]:
    """For every window and local token: which grid token it is, and its region.

    Args:
        grid: (X, Y, Z).
        window: effective tokens per axis.
        shift: effective cyclic shift per axis.
        geometry: "block" or "grid".
        device: where the result shall live.

    Returns:
        (source, region), both int64 (W, T): the token's raster number in the grid, or -1 for padding; and an
        identifier such that two tokens of a window may see each other only if theirs are equal.
    """
    counts = windows_per_axis(grid, window)
    sources: List[Tensor] = []
    wraps: List[Tensor] = []
    for axis in range(3):
        padded = counts[axis] * window[axis]
        position = _axis_positions(counts[axis], window[axis], geometry, device)
        sources.append((position + shift[axis]) % padded)
        wraps.append((position >= padded - shift[axis]).to(torch.int64))
    x, y, z = _spread(sources)
    inside = (x < grid[0]) & (y < grid[1]) & (z < grid[2])
    source = torch.where(inside, (x * grid[1] + y) * grid[2] + z, -1)
    x, y, z = _spread(wraps)
    region = (x * 2 + y) * 2 + z
    shape = [product(counts), product(window)]
    return source.reshape(shape), region.reshape(shape)


def token_slot(grid: List[int], window: List[int], shift: List[int], geometry: str, device: torch.device) -> Tensor:
    """The inverse of `token_index`: for every grid token its place `window * T + local`, int64 (X*Y*Z,)."""
    counts = windows_per_axis(grid, window)
    slot_window = torch.zeros([1, 1, 1], dtype=torch.int64, device=device)
    slot_local = torch.zeros([1, 1, 1], dtype=torch.int64, device=device)
    for axis in range(3):
        padded = counts[axis] * window[axis]
        position = (torch.arange(grid[axis], device=device) + (padded - shift[axis])) % padded
        if geometry == "grid":
            index, local = position % counts[axis], position // counts[axis]
        else:
            index, local = position // window[axis], position % window[axis]
        shape = [1, 1, 1]
        shape[axis] = grid[axis]
        slot_window = slot_window * counts[axis] + index.reshape(shape)
        slot_local = slot_local * window[axis] + local.reshape(shape)
    return (slot_window * product(window) + slot_local).reshape(-1)


def local_coordinates(window: List[int], device: torch.device) -> Tensor:
    """(T, 3) coordinates of a window's tokens, last axis fastest."""
    token = torch.arange(product(window), device=device)
    x = token // (window[1] * window[2])
    y = (token // window[2]) % window[1]
    z = token % window[2]
    return torch.stack([x, y, z], dim=1)


def bias_codes(table_window: List[int], window: List[int], bias_index: str, device: torch.device) -> Tensor:
    """(T,) integer codes: row of the bias table for query i and key j = code[i] - code[j] + `bias_center`.

    With "geometric" a token's code follows from where it sits in the window. With "monai" token t of a clipped window
    takes the code of token t of the full window, as MONAI does by cutting its index matrix to [:T, :T]; the two differ
    only where an axis was clipped.
    """
    if bias_index == "monai":
        tokens = product(window)
        place = local_coordinates(table_window, device)[:tokens]
    else:
        place = local_coordinates(window, device)
    return (place[:, 0] * (2 * table_window[1] - 1) + place[:, 1]) * (2 * table_window[2] - 1) + place[:, 2]


def bias_center(table_window: List[int]) -> int:
    """Row of the bias table that belongs to a token and itself."""
    w0, w1, w2 = table_window[0], table_window[1], table_window[2]
    return ((w0 - 1) * (2 * w1 - 1) + (w1 - 1)) * (2 * w2 - 1) + (w2 - 1)


def visible(window: List[int], causal: bool, radius: List[int], device: torch.device) -> Tensor:
    """(T, T) booleans: may query i see key j, by the predicate alone.

    Args:
        window: effective tokens per axis.
        causal: only keys that do not come after the query in raster order.
        radius: greatest distance per axis in tokens of the window; -1 is no limit.
        device: where the result shall live.
    """
    place = local_coordinates(window, device)
    offset = (place.unsqueeze(1) - place.unsqueeze(0)).abs()
    limit = torch.tensor([r if r >= 0 else 1 << 30 for r in radius], device=device)
    allowed = (offset <= limit).all(dim=2)
    if causal:
        allowed = allowed & torch.ones_like(allowed).tril()
    return allowed


def relative_coordinates(window_size: List[int], device: Optional[torch.device] = None) -> Tensor:
    """Offset that each row of a bias table stands for, as input of a continuous-position MLP.

    Args:
        window_size: tokens per axis, any number of axes.
        device: where the result shall live, the CPU by default.

    Returns:
        int64 (prod(2 w_i - 1), axes), from -(w_i - 1) to w_i - 1, last axis fastest: `bias_table=mlp(f(offsets))`.

    Example:
        >>> relative_coordinates([2, 1]).tolist()
        [[-1, 0], [0, 0], [1, 0]]
    """
    axes = [torch.arange(-(size - 1), size, device=device) for size in window_size]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).reshape(-1, len(window_size))
