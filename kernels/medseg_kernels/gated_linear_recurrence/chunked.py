"""The chunked form in torch: matrix products inside chunks, one state handed from chunk to chunk. Linear in N.

Made of matmul, exp and cumsum only, so that it can be scripted, traced and exported; the same code is the fallback where no
compiler and no GPU is found. Every decay factor is the exponential of a difference of cumulative sums that is <= 0.

C steps per chunk, n chunks, K key channels, V value channels; tensors are (B, H, n, C, .).
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .layout import CHUNK, chunk_rows, chunk_table, gather_chunks, scatter_chunks
from .reference import decay_per_step, floored, work_dtype


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    order: Optional[Tensor] = None,
    pieces: Optional[List[int]] = None,
    delta: bool = True,
    chunk: int = CHUNK,
) -> Tuple[Tensor, Tensor]:
    """Same recurrence, arguments and results as `reference.recurrent`, in time and memory linear in N.

    Args:
        q, k, v, g, beta, scale, delta: as there.
        initial_state: (B * W, H, K, V) for W pieces (W = 1 without `pieces`), the pieces of a sample side by side.
        order: None, or (R, N) integer: token visited at each step, heads in R equal groups.
        pieces: None, or [0, ..., N]: bounds of the packed pieces, each with a state of its own.
        chunk: steps per chunk, a power of two.

    Returns:
        (B, N, H, V) and the last states (B * W, H, K, V).
    """
    bounds = [0, q.shape[1]] if pieces is None else pieces
    factor = q.shape[3] ** -0.5 if scale is None else scale
    work = work_dtype(v)
    rows = chunk_rows(bounds, chunk, order, q.device)
    queries = gather_chunks(q.to(work) * factor, rows)
    keys, values = gather_chunks(k.to(work), rows), gather_chunks(v.to(work), rows)
    cum = gather_chunks(floored(decay_per_step(g, q).to(work)), rows).cumsum(3)
    strength: Optional[Tensor] = None
    if beta is not None:
        gate = gather_chunks(beta.to(work).unsqueeze(-1), rows)
        if delta:
            strength = gate
        else:
            keys = keys * gate
    state = start_states(initial_state, q, v, len(bounds) - 1)
    starts, new_values, final = state_pass(keys, values, cum, strength, state, chunk_table(bounds, chunk)[2])
    scores = decayed_scores(queries, keys, cum)
    output = scores @ new_values + (queries * cum.exp()) @ starts
    return scatter_chunks(output, rows, q.shape[1]).to(v.dtype), final


def start_states(initial_state: Optional[Tensor], q: Tensor, v: Tensor, count: int) -> Tensor:
    """The states before the first steps, (B * W, H, K, V), zeros if none were given."""
    if initial_state is not None:
        return initial_state.to(work_dtype(v))
    return torch.zeros(q.shape[0] * count, q.shape[2], q.shape[3], v.shape[3], dtype=work_dtype(v), device=v.device)


def state_pass(
    keys: Tensor, values: Tensor, cum: Tensor, strength: Optional[Tensor], state: Tensor, owners: List[int]
) -> Tuple[Tensor, Tensor, Tensor]:
    """Hand the state from chunk to chunk.

    Args:
        keys, values: (B, H, n, C, K) and (B, H, n, C, V).
        cum: (B, H, n, C, 1 or K) cumulative log decay inside each chunk.
        strength: (B, H, n, C, 1) of the delta rule, or None.
        state: (B * W, H, K, V) before the first step of each piece.
        owners: piece of each chunk.

    Returns:
        the state before each chunk (B, H, n, K, V); the values that are written (B, H, n, C, V), which differ from
        `values` for the delta rule; the last states (B * W, H, K, V).
    """
    size_b, size_h, size_n, _, size_k = keys.shape
    last = cum[:, :, :, -1:]
    kept = last.exp().transpose(3, 4)  # (B, H, n, 1 or K, 1)
    write_t = (keys * (last - cum).exp()).transpose(3, 4)  # (B, H, n, K, C)
    if strength is None:
        erase, fresh = keys, write_t @ values  # erase is not used
    else:
        inverse = unit_lower_inverse(strength * torch.tril(decayed_scores(keys, keys, cum), -1))
        erase = inverse @ (strength * keys * cum.exp())
        values = inverse @ (strength * values)
        fresh = values  # not used
    by_piece = list(state.view(size_b, -1, size_h, size_k, values.shape[4]).unbind(1))
    starts: List[Tensor] = []
    written: List[Tensor] = []
    for c in range(size_n):
        before = by_piece[owners[c]]
        starts.append(before)
        if strength is None:
            by_piece[owners[c]] = kept[:, :, c] * before + fresh[:, :, c]
        else:
            new = values[:, :, c] - erase[:, :, c] @ before
            written.append(new)
            by_piece[owners[c]] = kept[:, :, c] * before + write_t[:, :, c] @ new
    final = torch.stack(by_piece, 1).reshape(state.shape)
    if size_n == 0:
        return (
            torch.zeros(size_b, size_h, 0, size_k, values.shape[4], dtype=values.dtype, device=values.device),
            values,
            final,
        )
    return torch.stack(starts, 2), values if strength is None else torch.stack(written, 2), final


def decayed_scores(left: Tensor, right: Tensor, cum: Tensor) -> Tensor:
    """Scores with decay, A[i, j] = sum_k left[i, k] right[j, k] exp(cum[i, k] - cum[j, k]) for i >= j, else 0.

    A decay per head factors out of the sum. A decay per channel does not, and exp(cum_i) exp(-cum_j) would overflow: the
    triangle is split in halves again and again, and each square takes its own border as the point of reference, so that
    both factors stay <= 1.

    Args:
        left, right: (..., C, K) with C a power of two.
        cum: (..., C, 1 or K), falling along C.

    Returns:
        (..., C, C), lower triangular.
    """
    size_c = left.shape[-2]
    if cum.shape[-1] == 1:
        upper = torch.ones(size_c, size_c, dtype=torch.bool, device=left.device).triu(1)
        difference = (cum - cum.transpose(-1, -2)).masked_fill(upper, -float("inf"))
        return (left @ right.transpose(-1, -2)) * difference.exp()
    blocks = (
        (left * right).sum(-1).unsqueeze(-1).unsqueeze(-1)
    )  # (..., C, 1, 1): the diagonal, where no decay lies between
    size = 1
    while size < size_c:
        head, tail = halves(right, size)[0], halves(left, size)[1]
        cum_head, cum_tail = halves(cum, size)
        border = cum_head[..., -1:, :]
        square = (tail * (cum_tail - border).exp()) @ (head * (border - cum_head).exp()).transpose(-1, -2)
        blocks = join_blocks(blocks, square)
        size *= 2
    return blocks.squeeze(-3)


def halves(x: Tensor, size: int) -> Tuple[Tensor, Tensor]:
    """(..., C, E) -> two (..., C / (2 size), size, E): first and second half of every block of 2 size steps."""
    parts = x.unflatten(-2, (-1, 2, size))
    return parts.select(-3, 0), parts.select(-3, 1)


def join_blocks(blocks: Tensor, square: Tensor) -> Tensor:
    """Lower triangular blocks of twice the size: neighbours on the diagonal, `square` below, zeros above.

    Args:
        blocks: (..., 2 m, size, size).
        square: (..., m, size, size).
    """
    pairs = blocks.unflatten(-3, (-1, 2))
    top = torch.cat([pairs.select(-3, 0), torch.zeros_like(square)], -1)
    return torch.cat([top, torch.cat([square, pairs.select(-3, 1)], -1)], -2)


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """Inverse of I + lower, for a strictly lower triangular (..., C, C) with C a power of two.

    By halves: [[A, 0], [B, D]] has the inverse [[A', 0], [-D' B A', D']]. As stable as substitution, and made of matrix
    products, where a triangular solver could not be exported. (A product of powers of `lower` would be shorter but
    overflows for keys that resemble each other.)
    """
    size_c = lower.shape[-1]
    blocks = torch.ones_like(lower[..., :1]).unsqueeze(-1)  # (..., C, 1, 1)
    size = 1
    while size < size_c:
        tiles = lower.unflatten(-2, (-1, 2, size)).unflatten(-1, (-1, 2, size))  # (..., m, 2, size, m, 2, size)
        below = torch.diagonal(tiles.select(-5, 1).select(-2, 0), dim1=-4, dim2=-2)  # (..., size, size, m)
        below = below.movedim(-1, -3)
        pairs = blocks.unflatten(-3, (-1, 2))
        square = -(pairs.select(-3, 1) @ below @ pairs.select(-3, 0))
        blocks = join_blocks(blocks, square)
        size *= 2
    return blocks.squeeze(-3)
