# mypy: ignore-errors
"""Forward kernels: cumulative decay; the delta rule's triangular solve; the state from chunk to chunk; the outputs; the chain
of segments.

Legend in triton_shared.py. Workspaces are dense by (sample and head, chunk, step); tokens are addressed by strides.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_shared import (
    FLOOR,
    LOG2E,
    load_decay,
    load_rows,
    load_state,
    load_tile,
    pair,
    rows_of,
    store_state,
    store_tile,
    unit_lower_inverse,
)


@triton.jit
def decay_kernel(
    g, cum, order, starts, counts, size_n, size_h, size_k, chunks, heads_per_row, g_b, g_n, g_h,
    HAS_ORDER: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Cumulative log2 decay inside every chunk; steps that do not exist do not decay."""
    c, b, h = tl.program_id(0), tl.program_id(1) // size_h, (tl.program_id(1) % size_h).to(tl.int64)
    count = tl.load(counts + c)
    tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
    base = g + b.to(tl.int64) * g_b + h * g_h
    chunk = tl.program_id(1).to(tl.int64) * chunks + c
    steps = tl.arange(0, C)
    if DECAY == 3:
        keys = tl.arange(0, BK)
        decay = load_rows(base, g_n, tokens, exists, size_k, keys).to(tl.float32)
        store_tile(cum + chunk * C * size_k, size_k, steps, keys, tl.cumsum(tl.maximum(decay * LOG2E, FLOOR), 0))
    else:
        decay = tl.load(base + tokens * g_n, mask=exists, other=0.0).to(tl.float32)
        tl.store(cum + chunk * C + steps, tl.cumsum(tl.maximum(decay * LOG2E, FLOOR), 0))


@triton.jit
def solve_kernel(
    k, v, beta, cum, erase, target, order, starts, counts, size_n, size_h, size_k, size_v, chunks, heads_per_row,
    k_b, k_n, k_h, v_b, v_n, v_h, beta_b, beta_n, beta_h,
    HAS_ORDER: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Delta rule: T = (I + beta strict(K K^T decay))^-1 beta;  erase = T (K decay),  target = T V.  float32 solve."""
    c, b, h = tl.program_id(0), tl.program_id(1) // size_h, (tl.program_id(1) % size_h).to(tl.int64)
    count = tl.load(counts + c)
    tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
    chunk = tl.program_id(1).to(tl.int64) * chunks + c
    wide_b = b.to(tl.int64)
    keys, steps = tl.arange(0, BK), tl.arange(0, C)
    key = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys)
    strength = tl.load(beta + wide_b * beta_b + h * beta_h + tokens * beta_n, mask=exists, other=0.0).to(tl.float32)
    total, _ = load_decay(cum, chunk, h, count, size_k, keys, DECAY, C)
    overlap = pair(key, key, total, cum, chunk, size_k, keys, DECAY, C, PRECISION)
    lower = tl.where(steps[:, None] > steps[None, :], overlap * strength[:, None], 0.0)
    inverse = (unit_lower_inverse(lower, C) * strength[None, :]).to(key.dtype)
    faded = (key.to(tl.float32) * tl.exp2(total)).to(key.dtype)
    store_tile(erase + chunk * C * size_k, size_k, steps, keys, tl.dot(inverse, faded, input_precision=PRECISION))
    for v0 in range(0, size_v, BV):
        values = v0 + tl.arange(0, BV)
        value = load_rows(v + wide_b * v_b + h * v_h, v_n, tokens, exists, size_v, values)
        store_tile(
            target + chunk * C * size_v, size_v, steps, values, tl.dot(inverse, value, input_precision=PRECISION)
        )


@triton.jit
def state_kernel(
    k, v, beta, cum, erase, target, start, states, written, final, order, starts, counts, piece_chunks,
    size_n, size_h, size_k, size_v, size_w, chunks, heads_per_row, k_b, k_n, k_h, v_b, v_n, v_h, beta_b, beta_n, beta_h,
    HAS_ORDER: tl.constexpr, HAS_START: tl.constexpr, STORE: tl.constexpr, HAS_VALUES: tl.constexpr,
    DECAY: tl.constexpr, WRITE: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of one piece with a block of the state in registers.

    STORE keeps the state before every chunk and the values that are written; without it only the last state is wanted.
    Without HAS_VALUES nothing is written: what is left of the start shows how the piece transfers a state.
    """
    values = tl.program_id(1) * BV + tl.arange(0, BV)
    w, b, h = tl.program_id(0), tl.program_id(2) // size_h, (tl.program_id(2) % size_h).to(tl.int64)
    wide_b, wide_bh = b.to(tl.int64), tl.program_id(2).to(tl.int64)
    keys, steps = tl.arange(0, BK), tl.arange(0, C)
    state_at = ((wide_b * size_w + w) * size_h + h) * size_k * size_v
    state = tl.zeros([BK, BV], tl.float32)
    if HAS_START:
        state += load_state(start + state_at, size_k, size_v, keys, values)
    for c in range(tl.load(piece_chunks + w), tl.load(piece_chunks + w + 1)):
        count = tl.load(counts + c)
        tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
        chunk = wide_bh * chunks + c
        key = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys)
        total, last = load_decay(cum, chunk, h, count, size_k, keys, DECAY, C)
        left = key.to(tl.float32) * tl.exp2(last - total)
        if WRITE == 1:
            gate = tl.load(beta + wide_b * beta_b + h * beta_h + tokens * beta_n, mask=exists, other=0.0)
            left *= gate.to(tl.float32)[:, None]
        if STORE:
            store_state(states + chunk * size_k * size_v, size_k, size_v, keys, values, state)
        if WRITE == 2:
            known = tl.dot(
                load_tile(erase + chunk * C * size_k, size_k, steps, keys),
                state.to(key.dtype),
                input_precision=PRECISION,
            )
            value = -known
            if HAS_VALUES:
                value += load_tile(target + chunk * C * size_v, size_v, steps, values)
            if STORE:
                store_tile(written + chunk * C * size_v, size_v, steps, values, value)
        elif HAS_VALUES:
            value = load_rows(v + wide_b * v_b + h * v_h, v_n, tokens, exists, size_v, values)
        else:
            value = tl.zeros([C, BV], tl.float32)
        state = state * tl.trans(tl.exp2(last))
        state += tl.dot(tl.trans(left.to(key.dtype)), value.to(key.dtype), input_precision=PRECISION)
    store_state(final + state_at, size_k, size_v, keys, values, state)


@triton.jit
def output_kernel(
    q, k, v, beta, cum, states, written, out, order, starts, counts, scale,
    size_n, size_h, size_k, size_v, chunks, heads_per_row,
    q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h, beta_b, beta_n, beta_h,
    HAS_ORDER: tl.constexpr, ADJOINT: tl.constexpr, DECAY: tl.constexpr, WRITE: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = scores V + (scale Q decay) S for one chunk and a block of value channels.

    ADJOINT (delta rule only): v is the gradient of the outputs, out a workspace, and scores^T v is what is wanted.
    """
    values = tl.program_id(1) * BV + tl.arange(0, BV)
    c, b, h = tl.program_id(0), tl.program_id(2) // size_h, (tl.program_id(2) % size_h).to(tl.int64)
    count = tl.load(counts + c)
    tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
    wide_b = b.to(tl.int64)
    chunk = tl.program_id(2).to(tl.int64) * chunks + c
    keys, steps = tl.arange(0, BK), tl.arange(0, C)
    query = load_rows(q + wide_b * q_b + h * q_h, q_n, tokens, exists, size_k, keys)
    query = (query.to(tl.float32) * scale).to(query.dtype)
    key = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys)
    if WRITE == 1:
        gate = tl.load(beta + wide_b * beta_b + h * beta_h + tokens * beta_n, mask=exists, other=0.0)
        key = (key.to(tl.float32) * gate.to(tl.float32)[:, None]).to(key.dtype)
    total, _ = load_decay(cum, chunk, h, count, size_k, keys, DECAY, C)
    scores = pair(query, key, total, cum, chunk, size_k, keys, DECAY, C, PRECISION).to(key.dtype)
    if WRITE == 2 and not ADJOINT:
        value = load_tile(written + chunk * C * size_v, size_v, steps, values)
    else:
        value = load_rows(v + wide_b * v_b + h * v_h, v_n, tokens, exists, size_v, values)
    if ADJOINT:
        result = tl.dot(tl.trans(scores), value, input_precision=PRECISION)
        store_tile(out + chunk * C * size_v, size_v, steps, values, result)
    else:
        state = load_state(states + chunk * size_k * size_v, size_k, size_v, keys, values)
        read = (query.to(tl.float32) * tl.exp2(total)).to(key.dtype)
        result = tl.dot(scores, value, input_precision=PRECISION)
        result += tl.dot(read, state, input_precision=PRECISION)
        at = out + ((wide_b * size_n + tokens[:, None]) * size_h + h) * size_v + values[None, :]
        tl.store(at, result.to(out.dtype.element_ty), mask=exists[:, None] & (values < size_v)[None, :])


@triton.jit
def chain_kernel(
    first, ends, transfers, before, edges, size_h, size_k, size_v, count, pieces,
    DELTA: tl.constexpr, BACKWARD: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """State before each segment of a piece, or adjoint after each (BACKWARD): S -> M S + E from segment to segment.

    first (B * W, H, K, V); ends, before (B * S, H, K, V); transfers (B * S, H, K, 1), or (B * S, H, K, K) for DELTA, then
    transposed for BACKWARD; edges (W + 1,) int32: first segment of each piece. One program: a piece, a head, BV channels.
    """
    w, b, h = tl.program_id(0) % pieces, tl.program_id(0) // pieces, tl.program_id(2)
    keys, values = tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    wide_b = b.to(tl.int64)
    state = load_state(first + ((wide_b * pieces + w) * size_h + h) * size_k * size_v, size_k, size_v, keys, values)
    begin, end = tl.load(edges + w), tl.load(edges + w + 1)
    others = tl.arange(0, BK)
    for i in range(0, end - begin):
        s = begin + i
        if BACKWARD:
            s = end - 1 - i
        segment = (wide_b * count + s) * size_h + h
        own = load_state(ends + segment * size_k * size_v, size_k, size_v, keys, values)
        if DELTA:
            at = keys[:, None] * size_k + others[None, :]
            if BACKWARD:
                at = others[None, :] * size_k + keys[:, None]
            square = (keys < size_k)[:, None] & (others < size_k)[None, :]
            transfer = tl.load(transfers + segment * size_k * size_k + at, mask=square, other=0.0)
            moved = tl.dot(transfer, state, input_precision="ieee")
        else:
            fade = tl.load(transfers + segment * size_k + keys, mask=keys < size_k, other=0.0)
            moved = fade[:, None] * state
        store_state(before + segment * size_k * size_v, size_k, size_v, keys, values, state)
        state = moved + own


@triton.jit
def transfer_kernel(
    cum, transfers, counts, piece_chunks, size_h, size_k, size_w, chunks,
    DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """What is left of a state at each piece's end when nothing is written (no delta rule): transfers (B * W, H, K)."""
    w, b, h = tl.program_id(0), tl.program_id(1) // size_h, (tl.program_id(1) % size_h).to(tl.int64)
    keys = tl.arange(0, BK)
    total = tl.zeros([1, BK], tl.float32)
    for c in range(tl.load(piece_chunks + w), tl.load(piece_chunks + w + 1)):
        chunk = tl.program_id(1).to(tl.int64) * chunks + c
        if DECAY == 3:
            at = cum + chunk * C * size_k + (C - 1) * size_k + keys[None, :]
            total += tl.load(at, mask=(keys < size_k)[None, :], other=0.0)
        elif DECAY == 2:
            total += tl.load(cum + chunk * C + C - 1)
        elif DECAY == 1:
            total += tl.maximum(tl.load(cum + h) * LOG2E, FLOOR) * tl.load(counts + c)
    at = transfers + ((b.to(tl.int64) * size_w + w) * size_h + h) * size_k + keys[None, :]
    tl.store(at, tl.exp2(total), mask=(keys < size_k)[None, :])
