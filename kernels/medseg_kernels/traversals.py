"""Orders in which a scan visits the tokens of a 3D grid. An order is an index, never a permuted copy.

A traversal is written as text, so that it fits into a config, a checkpoint and a scripted module:

    raster[:AXES]                  AXES from slowest to fastest, default XYZ (the memory order)
    snake[:AXES]                   as raster, but every row turns round: consecutive steps are neighbours
    interslice[:AXIS]              all slices of a position, then the next position; AXIS (default X) counts the slices
    hilbert, morton                space-filling curves of the enclosing power-of-two cube, tokens outside the grid left out
    windowed:wx,wy,wz[:CURVE]      window after window (raster), inside each any curve above; the state starts anew in each
    tiled:wx,wy,wz[:CURVE]         the same order, the state is carried from window to window
    reversed TRAVERSAL             the same steps from the last to the first
    heads(T; T; ...)               channels are cut into as many equal blocks, each with its own traversal

A grid is (X, Y, Z); a token's number is (x * Y + y) * Z + z; a 2D grid has one axis of length 1. The functions
`traversal_order` and `traversal_pieces` can be scripted by TorchScript; `Traversal` adds checks, caching and the closed
form that kernels evaluate instead of loading an index.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

# Every kind of traversal with an example: what tests run over, and what an error lists.
TRAVERSALS: dict[str, str] = {
    "raster": "raster:ZYX",
    "snake": "snake:YXZ",
    "interslice": "interslice:Z",
    "hilbert": "hilbert",
    "morton": "morton",
    "windowed": "windowed:4,4,2:snake",
    "tiled": "tiled:2,4,4:hilbert",
    "reversed": "reversed snake",
    "heads": "heads(raster; reversed raster; raster:ZYX; snake)",
}
CURVES = ("raster", "snake", "interslice", "hilbert", "morton")


def _split_heads(text: str) -> List[str]:
    """The traversals inside `heads(...)`, or the text alone. Scriptable."""
    text = text.strip()
    if text.startswith("heads(") and text.endswith(")"):
        parts: List[str] = []
        for part in text[6 : len(text) - 1].split(";"):
            parts.append(part.strip())
        return parts
    return [text]


def _split_reversed(text: str) -> Tuple[bool, str]:
    """Whether an odd number of `reversed ` stands in front, and what stands behind. Scriptable."""
    text = text.strip()
    flipped = False
    while text.startswith("reversed "):
        text = text[9:].strip()
        flipped = not flipped
    return flipped, text


def _split_windows(text: str) -> Tuple[bool, List[int], str]:
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


def _axes(curve: str) -> List[int]:
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
    a = _axes(curve)
    slow, middle, fast = position[a[0]], position[a[1]], position[a[2]]
    if curve.startswith("snake"):
        fast = torch.where((slow + middle) % 2 == 1, extent[a[2]] - 1 - fast, fast)
        middle = torch.where(slow % 2 == 1, extent[a[1]] - 1 - middle, middle)
    return (slow * extent[a[1]] + middle) * extent[a[2]] + fast


def _single_order(text: str, grid: List[int], device: Optional[torch.device]) -> Tensor:
    """(N,) int64: the token of every step of one traversal without heads. Scriptable."""
    flipped, text = _split_reversed(text)
    _, window, curve = _split_windows(text)
    size_x, size_y, size_z = grid[0], grid[1], grid[2]
    tokens = torch.arange(size_x * size_y * size_z, device=device)
    if len(window) == 0 and (curve.startswith("raster") or curve.startswith("interslice")):
        order = tokens.view(size_x, size_y, size_z).permute(_axes(curve)).reshape(-1)
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
    for part in _split_heads(text):
        rows.append(_single_order(part, grid, device))
    return torch.stack(rows)


def traversal_pieces(text: str, grid: List[int]) -> List[int]:
    """Steps at which the state starts anew: 0 = p0 < p1 < ... < N. Scriptable; without `heads(...)`.

    Piece w holds the steps p_w up to p_(w+1); there is more than one piece only in `windowed` traversals.
    """
    flipped, text = _split_reversed(text)
    reset, window, _ = _split_windows(text)
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
    order = _single_order(text, grid, device)
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


@dataclass(frozen=True)
class ClosedForm:
    """A traversal as integer arithmetic: the token of step t without loading an index.

        t = N - 1 - t                                 if reversed
        i, j, k = t // (n1 * n2), t // n2 % n1, t % n2
        j = n1 - 1 - j if snake and i is odd;  k = n2 - 1 - k if snake and i + j is odd (j after its turn)
        token = i * s0 + j * s1 + k * s2

    Args:
        n1: length of the middle axis.
        n2: length of the fastest axis.
        s0: tokens between neighbours along the slowest axis; s1, s2 likewise.
        snake: rows turn round.
        reversed: from the last step to the first.
    """

    n1: int
    n2: int
    s0: int
    s1: int
    s2: int
    snake: bool
    reversed: bool


@dataclass(frozen=True)
class Traversal:
    """An order of visit over a grid; build it with `Traversal.parse`.

    Example:
        >>> Traversal.parse("reversed raster:ZYX").order((1, 2, 2)).tolist()
        [3, 1, 2, 0]
    """

    text: str

    @staticmethod
    def parse(text: str | Traversal) -> Traversal:
        """Check a traversal's text (grammar on top of this file).

        Raises:
            ValueError: what part is not understood, and what there is.
        """
        if isinstance(text, Traversal):
            return text
        # torch.compile traces through a cache and warns about it
        return _parse_text(text) if torch.compiler.is_compiling() else _parse(text)

    @property
    def heads(self) -> tuple[Traversal, ...]:
        """The traversals of the channel blocks; itself alone without `heads(...)`."""
        parts = _split_heads(self.text)
        return (self,) if len(parts) == 1 and parts[0] == self.text else tuple(Traversal(part) for part in parts)

    def order(self, grid: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """(N,) int64, cached: the token of every step. Do not write into it.

        Raises:
            ValueError: this traversal has heads (ask each of `heads`), or the grid is not three positive lengths.
        """
        if len(self.heads) > 1:
            raise ValueError(f"traversal {self.text!r} has {len(self.heads)} heads: ask each of .heads for its order")
        return _cached_order(self.text, check_grid(grid), str(device or "cpu"), False)

    def inverse(self, grid: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """(N,) int64, cached: the step at which every token is visited."""
        if len(self.heads) > 1:
            raise ValueError(f"traversal {self.text!r} has {len(self.heads)} heads: ask each of .heads for its inverse")
        return _cached_order(self.text, check_grid(grid), str(device or "cpu"), True)

    def pieces(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Steps at which the state starts anew and, last, N; (0, N) unless windowed."""
        if len(self.heads) > 1:
            raise ValueError(f"traversal {self.text!r} has {len(self.heads)} heads: ask each of .heads for its pieces")
        return _cached_pieces(self.text, check_grid(grid))

    def reversed(self) -> Traversal:
        """The same steps from the last to the first."""
        parts = []
        for part in _split_heads(self.text):
            flipped, rest = _split_reversed(part)
            parts.append(rest if flipped else f"reversed {rest}")
        return Traversal(parts[0] if len(self.heads) == 1 else f"heads({'; '.join(parts)})")

    def moves(self, grid: Sequence[int]) -> Tensor:
        """(N,) int64, cached, per token: how the step to it was made (see `traversal_moves`)."""
        return _cached_moves(self.text, check_grid(grid))

    def closed_form(self, grid: Sequence[int]) -> ClosedForm | None:
        """The integer arithmetic of raster, interslice and snake orders, with reversal; None for the others."""
        flipped, text = _split_reversed(self.text)
        if not text.startswith(("raster", "snake", "interslice")):
            return None
        a, sides = _axes(text), check_grid(grid)
        step = (sides[1] * sides[2], sides[2], 1)
        snake = text.startswith("snake")
        return ClosedForm(sides[a[1]], sides[a[2]], step[a[0]], step[a[1]], step[a[2]], snake, flipped)


def check_grid(grid: Sequence[int]) -> tuple[int, int, int]:
    """The grid as three positive ints.

    Raises:
        ValueError: it is anything else.
    """
    sides = tuple(int(side) for side in grid)
    if len(sides) != 3 or min(sides) < 1:
        raise ValueError(f"grid: found {tuple(grid)}, expected three lengths >= 1 (X, Y, Z)")
    return sides


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Traversal:
    return _parse_text(text)


def _parse_text(text: str) -> Traversal:
    text = " ".join(text.split())
    parts = _split_heads(text)
    for part in parts:
        _check_single(part, text)
    return Traversal(text if len(parts) > 1 or parts[0] == text else parts[0])


def _check_single(part: str, whole: str) -> None:
    rest = _split_reversed(part)[1]
    if rest.startswith(("windowed:", "tiled:")):
        body = rest.split(":", 1)[1]
        sides = body.split(":", 1)[0].split(",")
        if len(sides) != 3 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
            raise ValueError(
                f"traversal {whole!r}: found window {','.join(sides)!r}, expected three lengths such as 4,4,4"
            )
        rest = _split_windows(rest)[2]
    name, _, letters = rest.partition(":")
    if name not in CURVES:
        near = difflib.get_close_matches(name, TRAVERSALS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"traversal {whole!r}: unknown {name!r}; there are {', '.join(TRAVERSALS)}{hint}")
    letters = letters.strip().upper()
    if name in ("raster", "snake") and letters and sorted(letters) != ["X", "Y", "Z"]:
        raise ValueError(f"traversal {whole!r}: found axes {letters!r}, expected each of X, Y, Z once, slowest first")
    if name == "interslice" and letters not in ("", "X", "Y", "Z"):
        raise ValueError(f"traversal {whole!r}: found axis {letters!r}, expected X, Y or Z")
    if name in ("hilbert", "morton") and letters:
        raise ValueError(f"traversal {whole!r}: {name} takes no axes, found {letters!r}")


@functools.lru_cache(maxsize=128)
def _cached_order(text: str, grid: tuple[int, int, int], device: str, inverse: bool) -> Tensor:
    order = _single_order(text, list(grid), None)
    return (torch.argsort(order) if inverse else order).to(device)


@functools.lru_cache(maxsize=128)
def _cached_pieces(text: str, grid: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(traversal_pieces(text, list(grid)))


@functools.lru_cache(maxsize=64)
def _cached_moves(text: str, grid: tuple[int, int, int]) -> Tensor:
    return traversal_moves(text, list(grid), None)
