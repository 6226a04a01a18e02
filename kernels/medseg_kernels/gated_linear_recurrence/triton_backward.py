# mypy: ignore-errors
"""Backward kernels: the state's adjoint from the last chunk to the first; the delta rule's solve; gradients of a chunk.

Legend in triton_shared.py, derivation in README.md. Nothing is added atomically: every number has one writer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_shared import (
    load_decay,
    load_rows,
    load_state,
    load_tile,
    pair,
    pair_backward,
    rows_of,
    store_state,
    store_tile,
    unit_lower_inverse,
)


@triton.jit
def state_backward_kernel(
    q, k, d_out, cum, erase, d_final, d_states, d_written, d_start, order, starts, counts, piece_chunks, scale,
    size_n, size_h, size_k, size_v, size_w, chunks, heads_per_row, q_b, q_n, q_h, k_b, k_n, k_h, o_b, o_n, o_h,
    HAS_ORDER: tl.constexpr, STORE: tl.constexpr, HAS_FINAL: tl.constexpr, DECAY: tl.constexpr, WRITE: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk a piece backwards with a block of the state's adjoint in registers.

    STORE keeps the adjoint of the state after every chunk and, for the delta rule, that of the written values (d_written
    comes in with its share from the outputs and goes out whole). Without it only the adjoint of the start is wanted.
    """
    values = tl.program_id(1) * BV + tl.arange(0, BV)
    w, b, h = tl.program_id(0), tl.program_id(2) // size_h, (tl.program_id(2) % size_h).to(tl.int64)
    wide_b, wide_bh = b.to(tl.int64), tl.program_id(2).to(tl.int64)
    keys, steps = tl.arange(0, BK), tl.arange(0, C)
    state_at = ((wide_b * size_w + w) * size_h + h) * size_k * size_v
    d_state = tl.zeros([BK, BV], tl.float32)
    if HAS_FINAL:
        d_state += load_state(d_final + state_at, size_k, size_v, keys, values)
    first, end = tl.load(piece_chunks + w), tl.load(piece_chunks + w + 1)
    for back in range(0, end - first):
        c = end - 1 - back
        count = tl.load(counts + c)
        tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
        chunk = wide_bh * chunks + c
        query = load_rows(q + wide_b * q_b + h * q_h, q_n, tokens, exists, size_k, keys)
        grad = load_rows(d_out + wide_b * o_b + h * o_h, o_n, tokens, exists, size_v, values)
        total, last = load_decay(cum, chunk, h, count, size_k, keys, DECAY, C)
        if STORE:
            store_state(d_states + chunk * size_k * size_v, size_k, size_v, keys, values, d_state)
        read = (query.to(tl.float32) * tl.exp2(total) * scale).to(query.dtype)
        before = d_state * tl.trans(tl.exp2(last)) + tl.dot(tl.trans(read), grad, input_precision=PRECISION)
        if WRITE == 2:
            key = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys)
            left = (key.to(tl.float32) * tl.exp2(last - total)).to(key.dtype)
            d_value = load_tile(d_written + chunk * C * size_v, size_v, steps, values).to(tl.float32)
            d_value += tl.dot(left, d_state.to(key.dtype), input_precision=PRECISION)
            if STORE:
                store_tile(d_written + chunk * C * size_v, size_v, steps, values, d_value)
            erased = load_tile(erase + chunk * C * size_k, size_k, steps, keys)
            before -= tl.dot(tl.trans(erased), d_value.to(key.dtype), input_precision=PRECISION)
        d_state = before
    store_state(d_start + state_at, size_k, size_v, keys, values, d_state)


@triton.jit
def solve_backward_kernel(
    k, v, beta, cum, states, written, d_written, dv, d_beta, order, starts, counts,
    size_n, size_h, size_k, size_v, chunks, heads_per_row, k_b, k_n, k_h, v_b, v_n, v_h, beta_b, beta_n, beta_h,
    HAS_ORDER: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Delta rule: through the triangular solve, from the gradient of what is written to those of v and beta.

    With z = (I + beta L)^-T d_written: dv = beta z, and d_beta = z . error, error = v - (K decay) S - L written, which
    is written / beta without a division by a beta of 0.
    """
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
    overlap = tl.where(steps[:, None] > steps[None, :], overlap, 0.0)
    inverse_t = tl.trans(unit_lower_inverse(overlap * strength[:, None], C)).to(key.dtype)
    overlap_16 = overlap.to(key.dtype)
    read = (key.to(tl.float32) * tl.exp2(total)).to(key.dtype)
    d_strength = tl.zeros([C], tl.float32)
    for v0 in range(0, size_v, BV):
        values = v0 + tl.arange(0, BV)
        d_value = load_tile(d_written + chunk * C * size_v, size_v, steps, values)
        z = tl.dot(inverse_t, d_value, input_precision=PRECISION)
        error = load_rows(v + wide_b * v_b + h * v_h, v_n, tokens, exists, size_v, values).to(tl.float32)
        state = load_state(states + chunk * size_k * size_v, size_k, size_v, keys, values)
        error -= tl.dot(read, state, input_precision=PRECISION)
        error -= tl.dot(
            overlap_16, load_tile(written + chunk * C * size_v, size_v, steps, values), input_precision=PRECISION
        )
        d_strength += tl.sum(error * z, 1)
        at = dv + ((wide_b * size_n + tokens[:, None]) * size_h + h) * size_v + values[None, :]
        mask = exists[:, None] & (values < size_v)[None, :]
        tl.store(at, (z * strength[:, None]).to(dv.dtype.element_ty), mask=mask)
    tl.store(d_beta + (wide_b * size_n + tokens) * size_h + h, d_strength, mask=exists)


@triton.jit
def gradient_kernel(
    q, k, v, beta, d_out, cum, states, d_states, written, dq, dk, dv, dg, d_beta, order, starts, counts, scale,
    size_n, size_h, size_k, size_v, chunks, heads_per_row,
    q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h, o_b, o_n, o_h, beta_b, beta_n, beta_h,
    HAS_ORDER: tl.constexpr, DECAY: tl.constexpr, WRITE: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, dk, the decay's gradient and, but for the delta rule (whose dv comes in), dv and the gate's gradient."""
    c, b, h = tl.program_id(0), tl.program_id(1) // size_h, (tl.program_id(1) % size_h).to(tl.int64)
    count = tl.load(counts + c)
    tokens, exists = rows_of(order, h // heads_per_row, tl.load(starts + c), count, size_n, HAS_ORDER, C)
    wide_b = b.to(tl.int64)
    chunk = tl.program_id(1).to(tl.int64) * chunks + c
    keys, steps = tl.arange(0, BK), tl.arange(0, C)
    query = load_rows(q + wide_b * q_b + h * q_h, q_n, tokens, exists, size_k, keys)
    query = (query.to(tl.float32) * scale).to(query.dtype)
    key = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys)
    if WRITE == 1:
        gate = tl.load(beta + wide_b * beta_b + h * beta_h + tokens * beta_n, mask=exists, other=0.0).to(tl.float32)
        key = (key.to(tl.float32) * gate[:, None]).to(key.dtype)
    total, last = load_decay(cum, chunk, h, count, size_k, keys, DECAY, C)
    fade_read, fade_left = tl.exp2(total), tl.exp2(last - total)
    if WRITE != 2:
        scores_t = tl.trans(pair(query, key, total, cum, chunk, size_k, keys, DECAY, C, PRECISION)).to(key.dtype)
        left = (key.to(tl.float32) * fade_left).to(key.dtype)
    d_scores = tl.zeros([C, C], tl.float32)
    d_query = tl.zeros([C, BK], tl.float32)
    d_write = tl.zeros([C, BK], tl.float32)
    at_end = tl.zeros([BK], tl.float32)
    if WRITE == 2:
        d_overlap = tl.zeros([C, C], tl.float32)
        d_read = tl.zeros([C, BK], tl.float32)
    for v0 in range(0, size_v, BV):
        values = v0 + tl.arange(0, BV)
        mask = exists[:, None] & (values < size_v)[None, :]
        at_v = ((wide_b * size_n + tokens[:, None]) * size_h + h) * size_v + values[None, :]
        grad = load_rows(d_out + wide_b * o_b + h * o_h, o_n, tokens, exists, size_v, values)
        state = load_state(states + chunk * size_k * size_v, size_k, size_v, keys, values)
        d_state = load_state(d_states + chunk * size_k * size_v, size_k, size_v, keys, values)
        if WRITE == 2:
            value = load_tile(written + chunk * C * size_v, size_v, steps, values)
            d_value = tl.load(dv + at_v, mask=mask, other=0.0).to(key.dtype)
            d_overlap -= tl.dot(d_value, tl.trans(value), input_precision=PRECISION)
            d_read -= tl.dot(d_value, tl.trans(state), input_precision=PRECISION)
        else:
            value = load_rows(v + wide_b * v_b + h * v_h, v_n, tokens, exists, size_v, values)
            d_value = tl.dot(scores_t, grad, input_precision=PRECISION)
            d_value += tl.dot(left, d_state, input_precision=PRECISION)
            tl.store(dv + at_v, d_value.to(dv.dtype.element_ty), mask=mask)
        d_scores += tl.dot(grad, tl.trans(value), input_precision=PRECISION)
        d_query += tl.dot(grad, tl.trans(state), input_precision=PRECISION)
        d_write += tl.dot(value, tl.trans(d_state), input_precision=PRECISION)
        at_end += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), 1)
    d_query *= fade_read
    d_write *= fade_left
    wide_key = key.to(tl.float32)
    d_last = at_end[None, :] * tl.exp2(last) + tl.sum(wide_key * d_write, 0)[None, :]  # (1, BK)
    pair_query, pair_write = pair_backward(
        d_scores, query, key, total, cum, chunk, size_k, keys, DECAY, C, False, PRECISION
    )
    d_query += pair_query
    d_write += pair_write
    d_cum = query.to(tl.float32) * d_query - wide_key * d_write
    d_key = d_write
    if WRITE == 2:
        d_read *= fade_read
        pair_read, pair_write = pair_backward(
            d_overlap, key, key, total, cum, chunk, size_k, keys, DECAY, C, True, PRECISION
        )
        d_read += pair_read
        d_cum += wide_key * (d_read - pair_write)
        d_key += d_read + pair_write
    at_k = ((wide_b * size_n + tokens[:, None]) * size_h + h) * size_k + keys[None, :]
    mask_k = exists[:, None] & (keys < size_k)[None, :]
    at_head = (wide_b * size_n + tokens) * size_h + h
    tl.store(dq + at_k, (d_query * scale).to(dq.dtype.element_ty), mask=mask_k)
    if WRITE == 1:
        plain = load_rows(k + wide_b * k_b + h * k_h, k_n, tokens, exists, size_k, keys).to(tl.float32)
        tl.store(d_beta + at_head, tl.sum(plain * d_key, 1), mask=exists)
        d_key *= gate[:, None]
    tl.store(dk + at_k, d_key.to(dk.dtype.element_ty), mask=mask_k)
    if DECAY == 3:
        tl.store(dg + at_k, tl.cumsum(d_cum, 0, reverse=True) + d_last, mask=mask_k)
    elif DECAY != 0:
        tl.store(dg + at_head, tl.cumsum(tl.sum(d_cum, 1), 0, reverse=True) + tl.sum(d_last), mask=exists)
