"""Traversals as tables: the token of every step, and where the state starts anew. Built once per grid and device."""

from __future__ import annotations

import functools
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from .orders import Traversal

SEPARATOR = "|"  # joins traversals into the one string an op's schema can hold


def split(traversals: str) -> list[str]:
    """The traversals of a joined string."""
    return traversals.split(SEPARATOR)


def count_heads(traversals: str) -> int:
    """H: the largest number of heads of any of the traversals; those without heads count for all of them."""
    return max(len(Traversal.parse(text).heads) for text in split(traversals))


def tables(traversals: str, grid: Sequence[int], device: torch.device) -> Tuple[Tensor, Optional[Tensor]]:
    """Tables that kernels read.

    Args:
        traversals: R texts joined by SEPARATOR.
        grid: X, Y, Z.
        device: where the kernel runs.

    Returns:
        order: (R, H, N) int32, the token of every step.
        begins: (R, H, N) uint8, 1 where the state starts anew; None when that is the first step only.
    """
    return _tables(traversals, (int(grid[0]), int(grid[1]), int(grid[2])), str(device))


@functools.lru_cache(maxsize=64)
def _tables(traversals: str, grid: tuple[int, int, int], device: str) -> Tuple[Tensor, Optional[Tensor]]:
    size_h = count_heads(traversals)
    rows, marks, several = [], [], False
    for text in split(traversals):
        heads = Traversal.parse(text).heads
        for head in heads if len(heads) == size_h else heads * size_h:
            pieces = head.pieces(grid)
            several = several or len(pieces) > 2
            mark = torch.zeros(pieces[-1], dtype=torch.uint8)
            mark[list(pieces[:-1])] = 1
            rows.append(head.order(grid).to(torch.int32))
            marks.append(mark)
    shape = (len(split(traversals)), size_h, -1)
    order = torch.stack(rows).view(shape).to(device)
    return order, torch.stack(marks).view(shape).to(device) if several else None
