"""What stands on a tape: places in memory, views of them, allocations, operators of torch and launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Place(NamedTuple):
    """Where a tensor begins: its slot (an input, an allocation, a result or a constant) and bytes from there."""

    slot: int
    offset: int


class View(NamedTuple):
    """A tensor on a slot; whole where it is the very tensor that the slot was made as."""

    place: Place
    whole: bool
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Memory(NamedTuple):
    """An allocation."""

    slot: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """From the first number to the last."""
        if 0 in self.shape:
            return 0
        return (
            1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        ) * self.dtype.itemsize


class Operation(NamedTuple):
    """A kernel of torch: results go to fresh slots."""

    function: Callable[..., Any]
    arguments: Any  # (positional, named), with a View for each tensor
    fill: Callable[[list[Any]], Any]  # them with tensors
    results: list[int]


class Launch(NamedTuple):
    """A kernel of triton. compiled is None in the interpreter, where tensors are passed instead of addresses."""

    kernel: Any
    compiled: Any
    run: Any  # of the compiled kernel, with its function and metadata, so that they are looked up once
    head: tuple[Any, ...]
    grid: tuple[int, int, int]
    arguments: list[Any]
    addresses: list[tuple[int, int, int]]  # number of the argument, slot, offset
    options: dict[str, Any]
