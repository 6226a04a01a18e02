"""Splitting long pieces when there are fewer heads than workers, the normal case in 3D: one volume, a few heads, 10^5 tokens.

A piece acts on its state by an affine map, S_end = M S_start + E. So: cut it into segments, walk all of them at once from a
zero state (E), find their transfers (M: a factor per key channel, or a K x K matrix for the delta rule), chain the maps over
the few segments, and walk all segments again, each from its own start. To the kernels a segment is just a piece. The adjoint
goes the same way from the end with M transposed.
"""

from __future__ import annotations

import functools
from typing import List, Tuple

import torch
from torch import Tensor

MIN_CHUNKS = 8  # shorter segments cost more in the second walk than they gain


def split_pieces(pieces: List[int], workers_per_piece: float, chunk: int) -> Tuple[List[int], List[int]]:
    """Cut pieces into about `workers_per_piece` segments, at multiples of the chunk length.

    Args:
        pieces: bounds 0 .. N.
        workers_per_piece: wanted number of segments of each piece.
        chunk: steps per chunk.

    Returns:
        bounds of the segments and the piece of each; every piece has at least one, an empty one an empty one.
    """
    bounds, owners = [pieces[0]], []
    for w in range(len(pieces) - 1):
        chunks = -(-(pieces[w + 1] - pieces[w]) // chunk)
        count = max(1, min(int(workers_per_piece), chunks // MIN_CHUNKS))
        step = -(-chunks // count) * chunk
        cuts = list(range(pieces[w] + step, pieces[w + 1], step)) if step else []
        bounds += [*cuts, pieces[w + 1]]
        owners += [w] * (len(cuts) + 1)
    return bounds, owners


def apply_transfer(transfer: Tensor, state: Tensor, transposed: bool) -> Tensor:
    """M S or M^T S, with M diagonal, (..., K, 1), or full, (..., K, K)."""
    if transfer.shape[-1] == 1:
        return transfer * state
    return (transfer.transpose(-1, -2) if transposed else transfer) @ state


def chain(first: Tensor, ends: Tensor, transfers: Tensor, owners: List[int], *, backward: bool = False) -> Tensor:
    """State before each segment, or adjoint after each segment.

    Args:
        first: (B * W, H, K, V) states before the pieces, or adjoints after them.
        ends: (B * S, H, K, V) E of each segment.
        transfers: (B * S, H, K, 1 or K) M of each segment.
        owners: piece of each segment.
        backward: chain from the last segment to the first.

    Returns:
        (B * S, H, K, V).
    """
    count, pieces = len(owners), owners[-1] + 1
    size_b = ends.shape[0] // count
    running = list(first.view(size_b, pieces, *first.shape[1:]).unbind(1))
    by_end = ends.view(size_b, count, *ends.shape[1:])
    by_transfer = transfers.view(size_b, count, *transfers.shape[1:])
    before: List[Tensor] = [first] * count
    for s in reversed(range(count)) if backward else range(count):
        before[s] = running[owners[s]]
        running[owners[s]] = apply_transfer(by_transfer[:, s], before[s], backward) + by_end[:, s]
    return torch.stack(before, 1).flatten(0, 1).contiguous()


@functools.lru_cache(maxsize=8)
def probe(size_k: int, count: int, size_h: int, delta: bool, device: torch.device) -> Tensor:
    """Start states whose ends, when nothing is written, are the transfers: ones (K, 1), the identity for the delta rule."""
    start = torch.eye(size_k, device=device) if delta else torch.ones(size_k, 1, device=device)
    return start.expand(count, size_h, -1, -1).contiguous()


def of_each_piece(states: Tensor, owners: List[int], *, last: bool) -> Tensor:
    """From (B * S, ...) per segment to (B * W, ...): that of each piece's last (or first) segment."""
    count, pieces = len(owners), owners[-1] + 1
    if count == pieces:
        return states
    split = states.view(-1, count, *states.shape[1:])
    if pieces == 1:
        return split[:, -1 if last else 0]
    return split.index_select(1, _edges(tuple(owners), last, str(states.device))).flatten(0, 1)


@functools.lru_cache(maxsize=64)
def _edges(owners: Tuple[int, ...], last: bool, device: str) -> Tensor:
    count = len(owners)
    found = [
        s for s in range(count) if (s + 1 == count if last else s == 0) or owners[s] != owners[s + 1 if last else s - 1]
    ]
    return torch.tensor(found, device=device)
