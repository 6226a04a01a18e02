"""Orders of a grid as functions that TorchScript takes: from the text of a traversal to the token of every step."""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

CURVES = ("raster", "snake", "interslice", "hilbert", "morton")


def split_heads(text: str) -> List[str]:
    """The traversals inside `heads(...)`, or the text alone. Scriptable."""
    text = text.strip()
    if text.startswith("heads(") and text.endswith(")"):
        parts: List[str] = []
        for part in text[6 : len(text) - 1].split(";"):
            parts.append(part.strip())
        return parts
    return [text]


def split_reversed(text: str) -> Tuple[bool, str]:
    """Whether an odd number of `reversed ` stands in front, and what stands behind. Scriptable."""
    text = text.strip()
    flipped = False
    while text.startswith("reversed "):
        text = text[9:].strip()
        flipped = not flipped
    return flipped, text


def split_windows(text: str) -> Tuple[bool, List[int], str]:
    """Whether the state restarts per window, the window (empty when there is none) and the curve. Scriptable."""
    reset = text.startswith("windowed:")
    if not reset and not text.startswith("tiled:"):
        return False, torch.jit.annotate(List[int], []), text
    rest = text[9:] if reset else text[6:]
    end = rest.find(":")
    curve = "raster" if end < 0 else rest[end + 1 :].strip()
    window: List[int] = []
    for side in (rest if end < 0 else rest[:end]).split(","):
        window.append(int(side))
    return reset, window, curve


def axes_of(curve: str) -> List[int]:
    """Axis numbers from slowest to fastest of `raster:ZYX`, `snake` or `interslice:Z`. Scriptable."""
    colon = curve.find(":")
    letters = "" if colon < 0 else curve[colon + 1 :].strip().upper()
    if curve.startswith("interslice"):
        last = "X" if letters == "" else letters
        letters = "XYZ".replace(last, "") + last
    if letters == "":
        letters = "XYZ"
    return ["XYZ".find(letters[0]), "XYZ".find(letters[1]), "XYZ".find(letters[2])]


def _spread(x: Tensor, bits: int) -> Tensor:
    """Bits of x with two empty places between them. Scriptable."""
    out = torch.zeros_like(x)
    for b in range(bits):
        out = out | (((x >> b) & 1) << (3 * b))
    return out


def _bits(extent: List[int]) -> int:
    bits = 0
    while (1 << bits) < max(max(extent[0], extent[1]), extent[2]):
        bits += 1
    return bits


def _hilbert_key(position: List[Tensor], bits: int) -> Tensor:
    """Distance along the 3D Hilbert curve of side 2**bits. Scriptable.

    Source: Skilling 2004, "Programming the Hilbert curve": inverse undo of excess work, then Gray encoding.
    """
    x = [position[0], position[1], position[2]]
    for shift in range(bits - 1, 0, -1):
        top, low = 1 << shift, (1 << shift) - 1
        for axis in range(3):
            high = (x[axis] & top) != 0
            swap = (x[0] ^ x[axis]) & low
            first = torch.where(high, x[0] ^ low, x[0] ^ swap)
            other = torch.where(high, x[axis], x[axis] ^ swap)
            x[0] = first
            if axis > 0:
                x[axis] = other
    x[1] = x[1] ^ x[0]
    x[2] = x[2] ^ x[1]
    turn = torch.zeros_like(x[0])
    for shift in range(bits - 1, 0, -1):
        turn = torch.where((x[2] & (1 << shift)) != 0, turn ^ ((1 << shift) - 1), turn)
    return (_spread(x[0] ^ turn, bits) << 2) | (_spread(x[1] ^ turn, bits) << 1) | _spread(x[2] ^ turn, bits)


def _curve_key(curve: str, position: List[Tensor], extent: List[Tensor], bits: int) -> Tensor:
    """A number per token that grows along the curve. Scriptable.

    Args:
        curve: one of CURVES with its axes.
        position: x, y, z of each token inside its box.
        extent: sides of the box of each token (an edge window is smaller than the others).
        bits: the power of two that holds every box, for hilbert and morton.
    """
    if curve.startswith("hilbert"):
        return _hilbert_key(position, bits)
    if curve.startswith("morton"):
        return (_spread(position[0], bits) << 2) | (_spread(position[1], bits) << 1) | _spread(position[2], bits)
    a = axes_of(curve)
    slow, middle, fast = position[a[0]], position[a[1]], position[a[2]]
    if curve.startswith("snake"):
        fast = torch.where((slow + middle) % 2 == 1, extent[a[2]] - 1 - fast, fast)
        middle = torch.where(slow % 2 == 1, extent[a[1]] - 1 - middle, middle)
    return (slow * extent[a[1]] + middle) * extent[a[2]] + fast


def single_order(text: str, grid: List[int], device: Optional[torch.device]) -> Tensor:
    """(N,) int64: the token of every step of one traversal without heads. Scriptable."""
    flipped, text = split_reversed(text)
    _, window, curve = split_windows(text)
    size_x, size_y, size_z = grid[0], grid[1], grid[2]
    tokens = torch.arange(size_x * size_y * size_z, device=device)
    if len(window) == 0 and (curve.startswith("raster") or curve.startswith("interslice")):
        order = tokens.view(size_x, size_y, size_z).permute(axes_of(curve)).reshape(-1)
        return order.flip(0) if flipped else order
    plane = size_y * size_z
    position = [
        torch.div(tokens, plane, rounding_mode="floor"),
        torch.div(tokens, size_z, rounding_mode="floor") % size_y,
        tokens % size_z,
    ]
    if len(window) == 0:
        extent = [torch.full_like(tokens, side) for side in grid]
        order = torch.argsort(_curve_key(curve, position, extent, _bits(grid)))
        return order.flip(0) if flipped else order
    block = [torch.div(position[i], window[i], rounding_mode="floor") for i in range(3)]
    extent = [torch.clamp(grid[i] - block[i] * window[i], max=window[i]) for i in range(3)]
    count = [(grid[i] + window[i] - 1) // window[i] for i in range(3)]
    inside = [position[i] - block[i] * window[i] for i in range(3)]
    bits = _bits(window)
    number = (block[0] * count[1] + block[1]) * count[2] + block[2]
    room = max(window[0] * window[1] * window[2], 1 << (3 * bits))  # more than any key inside one window
    order = torch.argsort(number * room + _curve_key(curve, inside, extent, bits))
    return order.flip(0) if flipped else order


def traversal_order(text: str, grid: List[int], device: Optional[torch.device] = None) -> Tensor:
    """The token visited at every step. Scriptable; the text is taken as checked (see `Traversal.parse`).

    Args:
        text: a traversal.
        grid: X, Y, Z.
        device: where the result is wanted.

    Returns:
        (H, N) int64, one row per head; H is 1 without `heads(...)`.
    """
    rows: List[Tensor] = []
    for part in split_heads(text):
        rows.append(single_order(part, grid, device))
    return torch.stack(rows)


def traversal_pieces(text: str, grid: List[int]) -> List[int]:
    """Steps at which the state starts anew: 0 = p0 < p1 < ... < N. Scriptable; without `heads(...)`.

    Piece w holds the steps p_w up to p_(w+1); there is more than one piece only in `windowed` traversals.
    """
    flipped, text = split_reversed(text)
    reset, window, _ = split_windows(text)
    total = grid[0] * grid[1] * grid[2]
    if not reset:
        return [0, total]
    sizes: List[int] = []
    for x in range(0, grid[0], window[0]):
        for y in range(0, grid[1], window[1]):
            for z in range(0, grid[2], window[2]):
                sides = min(window[0], grid[0] - x) * min(window[1], grid[1] - y)
                sizes.append(sides * min(window[2], grid[2] - z))
    pieces = [0]
    for w in range(len(sizes)):
        pieces.append(pieces[w] + sizes[len(sizes) - 1 - w if flipped else w])
    return pieces


def traversal_moves(text: str, grid: List[int], device: Optional[torch.device] = None) -> Tensor:
    """(N,) int64 per token: how the step to it was made. Scriptable; without `heads(...)`.

    0: no neighbour (a jump, or the first step of a piece); 1, 2: +X, -X; 3, 4: +Y, -Y; 5, 6: +Z, -Z.
    """
    order = single_order(text, grid, device)
    x = torch.div(order, grid[1] * grid[2], rounding_mode="floor")
    y = torch.div(order, grid[2], rounding_mode="floor") % grid[1]
    step = torch.stack([x, y, order % grid[2]], 1)
    step = step[1:] - step[:-1]
    kind = 1 + 2 * step.abs().argmax(1) + (step.sum(1) < 0).to(torch.long)
    kind = torch.where(step.abs().sum(1) == 1, kind, torch.zeros_like(kind))
    moves = torch.cat([torch.zeros_like(order[:1]), kind])
    pieces = traversal_pieces(text, grid)
    moves = moves.index_fill(0, torch.tensor(pieces[: len(pieces) - 1], device=device), 0)
    return torch.zeros_like(order).scatter(0, order, moves)
