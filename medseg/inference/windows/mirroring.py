"""Test-time mirroring: the mean logits of a window and its mirror images, each turned back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from .confidence import Votes

Runner = Callable[[torch.Tensor], torch.Tensor]


def mirror_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of the axes, the empty one first: 8 for three axes.

    Example:
        >>> mirror_combinations([0, 2])
        [(), (0,), (2,), (0, 2)]
    """
    return [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]


def mirrored(run: Runner, axes: Sequence[int], votes: Votes | None = None) -> Runner:
    """A runner (B, C, X, Y, Z) -> (B, K, X, Y, Z) that averages over mirror images along spatial `axes` (0 is X).

    `votes` counts where the images' labels agree.
    """
    if any(axis not in (0, 1, 2) for axis in axes):
        raise ValueError(f"mirror_axes={list(axes)}: expected spatial axes out of 0, 1, 2")
    if not axes:
        return run
    combinations = mirror_combinations(sorted(set(axes)))

    def averaged(windows: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        passes = []
        for chosen in combinations:
            dims = [axis + 2 for axis in chosen]
            logits = run(windows.flip(dims) if dims else windows)
            logits = logits.flip(dims) if dims else logits
            if votes is not None:
                passes.append(logits.argmax(1))
            total = logits.float() if total is None else total.add_(logits)
        assert total is not None
        if votes is not None:
            votes.count(passes, total.shape[1])
        return total.div_(len(combinations))

    return averaged
