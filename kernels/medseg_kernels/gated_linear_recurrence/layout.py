"""Which token is visited at which step of which chunk: the only geometry of the family.

A sequence (or several, packed behind each other) is cut into chunks of CHUNK steps; a chunk never spans two pieces. The
steps of a chunk name tokens through an optional visiting order, so that a 3D traversal is an index and never a copy.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

CHUNK = 64  # steps per chunk: the quadratic part (C per token) then weighs as much as the state part (K = V = 64)


def chunk_table(pieces: List[int], chunk: int) -> Tuple[List[int], List[int], List[int]]:
    """Cut packed pieces into chunks.

    Args:
        pieces: 0 = p0 <= p1 <= ... <= N; piece w holds the steps p_w up to p_(w+1). A piece may be empty.
        chunk: steps per chunk.

    Returns:
        first step, number of steps and piece of every chunk, in order.
    """
    starts: List[int] = []
    lengths: List[int] = []
    owners: List[int] = []
    for w in range(len(pieces) - 1):
        for start in range(pieces[w], pieces[w + 1], chunk):
            starts.append(start)
            lengths.append(min(chunk, pieces[w + 1] - start))
            owners.append(w)
    return starts, lengths, owners


def chunk_rows(pieces: List[int], chunk: int, order: Optional[Tensor], device: torch.device) -> Tensor:
    """Token visited at each step of each chunk.

    Args:
        pieces: as in `chunk_table`.
        chunk: steps per chunk.
        order: None or (R, N): token of each step, one row per group of heads.
        device: where the result is wanted.

    Returns:
        (R, chunks, chunk) int64; steps beyond a piece's end hold N, the number of a token that does not exist.
    """
    total = pieces[len(pieces) - 1]
    parts: List[Tensor] = []
    for w in range(len(pieces) - 1):
        length = pieces[w + 1] - pieces[w]
        if length > 0:
            padded = (length + chunk - 1) // chunk * chunk
            steps = torch.arange(padded, device=device) + pieces[w]
            parts.append(torch.where(steps < pieces[w + 1], steps, torch.full_like(steps, total)))
    steps = torch.cat(parts) if len(parts) > 0 else torch.zeros(0, dtype=torch.long, device=device)
    if order is None:
        return steps.view(1, -1, chunk)
    table = torch.cat([order.to(torch.long), torch.full_like(order[:, :1], total, dtype=torch.long)], 1)
    return table[:, steps].view(order.shape[0], -1, chunk)


def gather_chunks(x: Tensor, rows: Tensor) -> Tensor:
    """(B, N, H, E) -> (B, H, chunks, chunk, E); steps that do not exist read as zero.

    Args:
        x: tokens.
        rows: from `chunk_rows`, (R, chunks, chunk) with R dividing H: heads h*R//H read row-set h*R//H.
    """
    size_b, size_n, size_h, size_e = x.shape
    padded = torch.cat([x, x.new_zeros(size_b, 1, size_h, size_e)], 1).transpose(1, 2)  # (B, H, N+1, E)
    count = rows.shape[0]
    grouped = padded.reshape(size_b, count, size_h // count, size_n + 1, size_e)
    index = rows.view(1, count, 1, -1, 1).expand(size_b, -1, size_h // count, -1, size_e)
    picked = grouped.gather(3, index)
    return picked.reshape(size_b, size_h, rows.shape[1], rows.shape[2], size_e)


def scatter_chunks(x: Tensor, rows: Tensor, size_n: int) -> Tensor:
    """(B, H, chunks, chunk, E) -> (B, N, H, E), the inverse of `gather_chunks`; steps that do not exist are dropped."""
    size_b, size_h, _, _, size_e = x.shape
    count = rows.shape[0]
    grouped = x.reshape(size_b, count, size_h // count, -1, size_e)
    index = rows.view(1, count, 1, -1, 1).expand(size_b, -1, size_h // count, -1, size_e)
    target = torch.zeros(size_b, count, size_h // count, size_n + 1, size_e, dtype=x.dtype, device=x.device)
    filled = target.scatter(3, index, grouped)
    return filled[:, :, :, :size_n].reshape(size_b, size_h, size_n, size_e).transpose(1, 2)
