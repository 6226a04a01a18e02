"""Gradients of the chunked form in torch, written out: nothing but inputs is kept from the forward pass.

The states are computed again, their adjoints run from the last chunk to the first, and the decay gets its gradient without
a derivative of any exponential. Each exp(cum_i) sits on a factor that is read at step i (q_i, and k_i where the delta rule
reads the state) and each exp(-cum_j) on one that is written at step j (k_j), so

    d cum_i = q_i dq_i + k_i (dk_i as read) - k_i (dk_i as written),    and at a chunk's last step  + <S_end, dS_end>,

per key channel. For a decay per head nothing is subtracted: `_passing`. Shapes as in `chunkwise`; derivation in README.md.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from .chunked import decayed_scores, halves, start_states, state_pass, unit_lower_inverse
from .layout import CHUNK, chunk_rows, chunk_table, gather_chunks, scatter_chunks
from .reference import decay_per_step, floored, work_dtype


class Gradients(NamedTuple):
    """Gradients by the names of the arguments; None where the argument was None."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Optional[Tensor]
    beta: Optional[Tensor]
    initial_state: Tensor


def chunkwise_backward(
    grad_output: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    scale: float,
    initial_state: Optional[Tensor],
    order: Optional[Tensor] = None,
    pieces: Optional[List[int]] = None,
    delta: bool = True,
    chunk: int = CHUNK,
) -> Gradients:
    """All gradients of `chunkwise`.

    Args:
        grad_output: (B, N, H, V).
        grad_final: (B * W, H, K, V).
        q, k, v, g, beta, scale, initial_state, order, pieces, delta, chunk: as in `chunkwise`.
    """
    bounds = [0, q.shape[1]] if pieces is None else pieces
    work, size_n = work_dtype(v), q.shape[1]
    rows = chunk_rows(bounds, chunk, order, q.device)
    owners = chunk_table(bounds, chunk)[2]
    queries = gather_chunks(q.to(work) * scale, rows)
    keys, values = gather_chunks(k.to(work), rows), gather_chunks(v.to(work), rows)
    cum = gather_chunks(floored(decay_per_step(g, q).to(work)), rows).cumsum(3)
    strength = gate = None if beta is None else gather_chunks(beta.to(work).unsqueeze(-1), rows)
    plain_keys = keys
    if gate is not None and not delta:
        keys, strength = gate * keys, None
    state = start_states(initial_state, q, v, len(bounds) - 1)
    starts, new_values, _ = state_pass(keys, values, cum, strength, state, owners)
    d_output = gather_chunks(grad_output.to(work), rows)

    # what is read at a step carries exp(cum), what is written exp(last - cum): both <= 1
    read, last = cum.exp(), cum[:, :, :, -1:]
    keep, left = last.exp(), (last - cum).exp()
    d_new = decayed_scores(queries, keys, cum).transpose(3, 4) @ d_output
    erase = None
    if strength is not None:
        inverse = unit_lower_inverse(strength * torch.tril(decayed_scores(keys, keys, cum), -1))
        erase = inverse @ (strength * keys * read)
    d_ends, d_new, d_start = _reverse_state_pass(
        queries * read, d_output, keys * left, keep, erase, d_new, grad_final.to(work), owners
    )

    d_scores = torch.tril(d_output @ new_values.transpose(3, 4))
    d_queries, d_written = decayed_scores_backward(d_scores, queries, keys, cum)
    d_from_start = read * (d_output @ starts.transpose(3, 4))
    d_queries = d_queries + d_from_start
    d_stored = left * (new_values @ d_ends.transpose(3, 4))
    d_written = d_written + d_stored
    d_read, d_strength, d_values = torch.zeros_like(keys), None, d_new
    scalar = cum.shape[-1] == 1
    across = d_scores * decayed_scores(queries, keys, cum) if scalar else None
    reads = queries * d_from_start
    if strength is not None:
        overlap = torch.tril(decayed_scores(keys, keys, cum), -1)
        error = values - (keys * read) @ starts - overlap @ new_values  # what the state did not yet know
        adjoint = inverse.transpose(3, 4) @ d_new
        d_strength = (error * adjoint).sum(-1, keepdim=True)
        d_values = strength * adjoint
        d_overlap = -torch.tril(d_values @ new_values.transpose(3, 4), -1)
        d_read, d_overlap_written = decayed_scores_backward(d_overlap, keys, keys, cum)
        d_read_start = -read * (d_values @ starts.transpose(3, 4))
        d_read = d_read + d_read_start
        d_written = d_written + d_overlap_written
        reads = reads + keys * d_read_start
        across = across + d_overlap * overlap if across is not None else None
    stored = keys * d_stored
    d_keys = d_read + d_written
    if gate is not None and not delta:
        d_keys, d_strength = gate * d_keys, (plain_keys * d_keys).sum(-1, keepdim=True)
    kept = keep.squeeze(3) * (starts * d_ends).sum(-1)
    if across is not None:
        decay = _passing(across, reads.sum(-1), stored.sum(-1), kept.sum(-1)).unsqueeze(-1)
    else:
        d_cum = queries * d_queries + keys * (d_read - d_written)
        # a later step's cumulative sum holds all earlier decays: sum from the end, within the chunk only, so that rounding
        # errors cannot pile up over a sequence of 100 000 steps
        decay = d_cum.flip(3).cumsum(3).flip(3) + (stored.sum(3) + kept).unsqueeze(3)
    return Gradients(
        scatter_chunks(scale * d_queries, rows, size_n).to(q.dtype),
        scatter_chunks(d_keys, rows, size_n).to(k.dtype),
        scatter_chunks(d_values, rows, size_n).to(v.dtype),
        None if g is None else _decay_gradient(decay, rows, g, size_n),
        None
        if d_strength is None or beta is None
        else scatter_chunks(d_strength, rows, size_n).squeeze(-1).to(beta.dtype),
        d_start,
    )


def _reverse_state_pass(
    queries: Tensor,
    d_output: Tensor,
    writes: Tensor,
    keep: Tensor,
    erase: Optional[Tensor],
    d_new: Tensor,
    d_final: Tensor,
    owners: List[int],
) -> Tuple[Tensor, Tensor, Tensor]:
    """Adjoints of the states after each chunk, of the written values, and of the initial states."""
    size_b, size_h, size_n = queries.shape[:3]
    d_reads = queries.transpose(3, 4) @ d_output
    kept = keep.transpose(3, 4)
    by_piece = list(d_final.view(size_b, -1, *d_final.shape[1:]).unbind(1))
    d_ends: list[Tensor] = [d_final] * size_n
    d_values: list[Tensor] = [d_new] * size_n
    for c in range(size_n - 1, -1, -1):
        after = by_piece[owners[c]]
        d_ends[c] = after
        d_values[c] = d_new[:, :, c] + writes[:, :, c] @ after
        before = d_reads[:, :, c] + kept[:, :, c] * after
        by_piece[owners[c]] = before if erase is None else before - erase[:, :, c].transpose(2, 3) @ d_values[c]
    d_start = torch.stack(by_piece, 1).reshape(d_final.shape)
    if size_n == 0:
        return d_final.new_zeros(size_b, size_h, 0, *d_final.shape[2:]), d_new, d_start
    return torch.stack(d_ends, 2), torch.stack(d_values, 2), d_start


def decayed_scores_backward(d_scores: Tensor, left: Tensor, right: Tensor, cum: Tensor) -> Tuple[Tensor, Tensor]:
    """Gradients of `decayed_scores` for `left` and `right` (the decay's follows from these two by the identity above).

    Args:
        d_scores: (..., C, C), zero above the diagonal.
        left, right, cum: as given to `decayed_scores`.
    """
    if cum.shape[-1] == 1:
        # the clamp touches the other half only, where d_scores is zero but exp might overflow to inf
        weighted = d_scores * (cum - cum.transpose(-1, -2)).clamp(max=0).exp()
        return weighted @ right, weighted.transpose(-1, -2) @ left
    diagonal = torch.diagonal(d_scores, dim1=-2, dim2=-1).unsqueeze(-1)
    d_left, d_right = diagonal * right, diagonal * left
    size = 1
    while size < left.shape[-2]:
        tiles = d_scores.unflatten(-2, (-1, 2, size)).unflatten(-1, (-1, 2, size))
        square = torch.diagonal(tiles.select(-5, 1).select(-2, 0), dim1=-4, dim2=-2).movedim(-1, -3)
        head, tail = halves(right, size)[0], halves(left, size)[1]
        cum_head, cum_tail = halves(cum, size)
        border = cum_head[..., -1:, :]
        fade_head, fade_tail = (border - cum_head).exp(), (cum_tail - border).exp()
        d_tail = fade_tail * (square @ (head * fade_head))
        d_head = fade_head * (square.transpose(-1, -2) @ (tail * fade_tail))
        d_left = d_left + torch.stack([torch.zeros_like(d_tail), d_tail], -3).flatten(-4, -2)
        d_right = d_right + torch.stack([d_head, torch.zeros_like(d_head)], -3).flatten(-4, -2)
        size *= 2
    return d_left, d_right


def _passing(across: Tensor, reads: Tensor, stored: Tensor, kept: Tensor) -> Tensor:
    """The gradient of a log decay per step: the sum of all that passes over the step.

    No term is subtracted. The identity that serves decays per channel subtracts what a step reads of its own write; where
    decay is strong that is nearly everything, and what is left is noise.

    Args:
        across: (..., C, C), score times its gradient of every pair of a reading and an earlier or equal writing step.
        reads: (..., C), what steps read of the state before the chunk, times its gradient.
        stored: (..., C), what steps write that reaches the state after the chunk, likewise.
        kept: (...), the state itself from before to after the chunk, likewise.
    """
    before, written = (functional.pad(x[..., :-1].cumsum(-1), (1, 0)) for x in (across, stored))  # of steps j < t
    pairs = torch.tril(before).flip(-2).cumsum(-2).flip(-2).diagonal(dim1=-2, dim2=-1)
    return pairs + reads.flip(-1).cumsum(-1).flip(-1) + written + kept.unsqueeze(-1)


def _decay_gradient(gradient: Tensor, rows: Tensor, g: Tensor, size_n: int) -> Tensor:
    """(B, H, N chunks, C, K or 1) as the gradient of the log decay in the shape that was given."""
    gradient = gradient.sum(-1, keepdim=True) if g.dim() < 4 else gradient
    by_token = scatter_chunks(gradient, rows, size_n)
    if g.dim() == 1:
        return by_token.sum((0, 1), dtype=torch.float64).squeeze(-1).to(g.dtype)
    return (by_token if g.dim() == 4 else by_token.squeeze(-1)).to(g.dtype)
