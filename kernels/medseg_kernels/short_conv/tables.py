"""Neighbours along a traversal as tables: token of every step, step of every token, ends of every step's piece."""

from __future__ import annotations

import functools
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..traversals.orders import Traversal
from ..traversals.tables import count_heads, split
from .reference import step_bounds


def tables(traversals: str, grid: Sequence[int], device: torch.device) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    """Tables that kernels read.

    Returns:
        order: (R, H, N) int32, the token of every step.
        inverse: (R, H, N) int32, the step of every token.
        bounds: (R, H, 2, N) int32, first and one past the last step of the piece of every step; None when the whole
            sequence is one piece everywhere.
    """
    return _tables(traversals, (int(grid[0]), int(grid[1]), int(grid[2])), str(device))


class Settings(NamedTuple):
    """What a call is besides its tensors; as in `torch_short_conv`, the traversals joined to one string."""

    grid: Tuple[int, ...]
    traversals: str
    mode: str
    kernel: Tuple[int, ...]
    silu: bool


@functools.lru_cache(maxsize=64)
def _tables(traversals: str, grid: tuple[int, int, int], device: str) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    size_h = count_heads(traversals)
    orders, inverses, bounds, several = [], [], [], False
    for text in split(traversals):
        heads = Traversal.parse(text).heads
        for head in heads if len(heads) == size_h else heads * size_h:
            pieces = list(head.pieces(grid))
            several = several or len(pieces) > 2
            orders.append(head.order(grid))
            inverses.append(head.inverse(grid))
            bounds.append(torch.stack(step_bounds(pieces, torch.device("cpu"))))
    shape = (len(split(traversals)), size_h)

    def table(rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).to(torch.int32).view(*shape, *rows[0].shape).to(device)

    return table(orders), table(inverses), table(bounds) if several else None
