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
from typing import Sequence

import torch
from torch import Tensor

from .curves import (
    CURVES,
    axes_of,
    single_order,
    split_heads,
    split_reversed,
    split_windows,
    traversal_moves,
    traversal_pieces,
)

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
        parts = split_heads(self.text)
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
        for part in split_heads(self.text):
            flipped, rest = split_reversed(part)
            parts.append(rest if flipped else f"reversed {rest}")
        return Traversal(parts[0] if len(self.heads) == 1 else f"heads({'; '.join(parts)})")

    def moves(self, grid: Sequence[int], device: torch.device | None = None) -> Tensor:
        """(N,) int64, cached, per token: how the step to it was made (see `traversal_moves`)."""
        return _cached_moves(self.text, check_grid(grid), str(device or "cpu"))

    def closed_form(self, grid: Sequence[int]) -> ClosedForm | None:
        """The integer arithmetic of raster, interslice and snake orders, with reversal; None for the others."""
        flipped, text = split_reversed(self.text)
        if not text.startswith(("raster", "snake", "interslice")):
            return None
        a, sides = axes_of(text), check_grid(grid)
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
    parts = split_heads(text)
    for part in parts:
        _check_single(part, text)
    return Traversal(text if len(parts) > 1 or parts[0] == text else parts[0])


def _check_single(part: str, whole: str) -> None:
    rest = split_reversed(part)[1]
    if rest.startswith(("windowed:", "tiled:")):
        body = rest.split(":", 1)[1]
        sides = body.split(":", 1)[0].split(",")
        if len(sides) != 3 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
            raise ValueError(
                f"traversal {whole!r}: found window {','.join(sides)!r}, expected three lengths such as 4,4,4"
            )
        rest = split_windows(rest)[2]
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
    order = single_order(text, list(grid), None)
    return (torch.argsort(order) if inverse else order).to(device)


@functools.lru_cache(maxsize=128)
def _cached_pieces(text: str, grid: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(traversal_pieces(text, list(grid)))


@functools.lru_cache(maxsize=64)
def _cached_moves(text: str, grid: tuple[int, int, int], device: str) -> Tensor:
    return traversal_moves(text, list(grid), None).to(device)
