"""From a traversal's text to what the forms need: the token of each step, and where the state starts anew."""

from __future__ import annotations

import functools
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ..traversals.curves import split_heads, split_reversed, split_windows, traversal_order, traversal_pieces
from ..traversals.orders import Traversal


def is_memory_order(text: str) -> bool:
    """Whether the traversal visits tokens as they lie in memory, so that no index is needed. Scriptable."""
    return text == "" or text == "raster" or text == "raster:XYZ"


def visit(text: str, grid: List[int], device: Optional[torch.device]) -> Tuple[Optional[Tensor], Optional[List[int]]]:
    """Order (R, N) and bounds of the pieces of a traversal; None each where trivial. Scriptable.

    Args:
        text: a traversal; "" is a plain sequence.
        grid: X, Y, Z, or N for a plain sequence.
        device: where the order is wanted.

    Raises:
        ValueError: heads whose windows differ: one state per piece must fit all heads.
    """
    if is_memory_order(text):
        return None, None
    parts = split_heads(text)
    pieces = traversal_pieces(parts[0], grid)
    for part in parts:
        if traversal_pieces(part, grid) != pieces:
            raise ValueError(
                f"traversal {text}: found heads with different windows, expected the same windows for all heads"
            )
    return traversal_order(text, grid, device), pieces if len(pieces) > 2 else None


@functools.lru_cache(maxsize=128)
def cached_visit(text: str, grid: Tuple[int, ...], device: str) -> Tuple[Optional[Tensor], Optional[List[int]]]:
    """`visit` for eager code: computed once per traversal, grid and device, as int32 (a grid never has 2^31 tokens)."""
    if is_memory_order(text):
        return None, None
    order, pieces = visit(Traversal.parse(text).text, list(grid), None)
    return None if order is None else order.to(torch.int32).contiguous().to(device), pieces


def piece_count(text: str, grid: List[int]) -> int:
    """Number of pieces of a traversal, by arithmetic only, so that it also works on symbolic sizes."""
    windowed, window, _ = split_windows(split_reversed(split_heads(text)[0])[1])
    if not windowed:
        return 1
    count = 1
    for axis in range(3):
        count = count * ((grid[axis] + window[axis] - 1) // window[axis])
    return count
