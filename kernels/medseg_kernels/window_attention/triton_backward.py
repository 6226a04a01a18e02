"""Backward kernels; the weights are recomputed from the kept log-sum-exp. No atomics: results are the same every time.

`fused_kernel` (triton_fused.py) writes dq, dk, dv where windows and heads alone fill the chip; else `query_kernel` (BQ queries,
loop over keys) writes dq and delta, and `key_kernel` (BK keys, loop over queries) dk, dv and sums of padded ones. `bias_kernel`
(a tile of pairs, loop over a group of windows) keeps the tile's gradient in registers and writes it once per group;
`table_kernel` brings pairs to the bias table, one program per block of its rows. `expand_kernel` makes the bias of all pairs.
"""

import triton
import triton.language as tl

from .triton_shared import (
    add_bias,
    carrier_rows,
    entry_tile,
    far_apart,
    grid_rows,
    grid_tile,
    hide,
    keep,
    locate,
    output_tile,
    query_tile,
    store_padding,
    store_tile,
    task_of,
)

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def query_kernel(
    q, k, v, out, grad, lse, delta, carriers, out_carriers, grad_carriers, sample, padding, bias, row_code, column_code, rows,
    groups, seed, dq, dcarriers,
    qb, qn, qh, kb, kn, kh, db, dn, dh, H, windows, size_n, pitch, plane, blocks, scale, factor, threshold, kept,
    U: tl.constexpr, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, FREE: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr, MASKED: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    task, w, b, h, block = task_of(windows, H, blocks)
    given, head, tables = (carriers, sample, padding), (task, b, h, H), (rows, groups, pitch)
    biases = (bias, row_code, column_code, pitch, plane)
    i = block * BQ + tl.arange(0, BQ)
    where_i, group_i = locate(i, w, tables, U, M)
    q_tile = query_tile(q, (qb, qn, qh), i, where_i, given, head, M, HAS, SHARED, E, EB)
    grad_tile = output_tile(grad, grad_carriers, i, where_i, size_n, head, M, E, EB)
    out_tile = output_tile(out, out_carriers, i, where_i, size_n, head, M, E, EB)
    own = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    at = task.to(tl.int64) * U + i
    tl.store(delta + at, own, mask=i < U)
    level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
    acc = tl.zeros((BQ, EB), tl.float32)
    for start in range(0, U, BK):
        j = start + tl.arange(0, BK)
        where_j, group_j = locate(j, w, tables, U, M)
        k_tile = grid_tile(k, (kb, kn, kh), j, where_j, given, head, 1, M, HAS, E, EB)
        v_tile = grid_tile(v, (kb, kn, kh), j, where_j, given, head, 2, M, HAS, E, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, H, biases, M, W1, W2, FREE, KIND, CAUSAL, R0, R1, R2)
        weight = tl.exp2(hide(score, group_i, group_j, M, MASKED) - level[:, None])
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        dscore = weight * (dweight - own[:, None])
        acc += tl.dot(dscore.to(k_tile.dtype), k_tile, input_precision="ieee")
    acc *= factor
    where_i, group_i = locate(i, w, tables, U, M)
    if SHARED:  # (B, W, T, H, E), added up over windows by the caller; padded queries have zero rows
        to = ((b.to(tl.int64) * windows + w) * (U - M) + i - M) * (H * E) + h * E
        store_tile(dq, to, acc, where_i[2], E, EB)
    else:
        store_tile(dq, grid_rows(where_i, b, h, (db, dn, dh)), acc, where_i[1], E, EB)
    if M > 0:
        store_tile(dcarriers, carrier_rows(i, task, h, H, 3, M, E), acc, i < M, E, EB)


@triton.jit
def key_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, rows, groups, seed,
    dk, dv, dcarriers, dpadding,
    qb, qn, qh, kb, kn, kh, db, dn, dh, H, windows, size_n, pitch, plane, blocks, scale, factor, threshold, kept,
    U: tl.constexpr, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, FREE: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr, MASKED: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr,
    SUM_PADDING: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    task, w, b, h, block = task_of(windows, H, blocks)
    given, head, tables = (carriers, sample, padding), (task, b, h, H), (rows, groups, pitch)
    biases = (bias, row_code, column_code, pitch, plane)
    j = block * BK + tl.arange(0, BK)
    where_j, group_j = locate(j, w, tables, U, M)
    k_tile = grid_tile(k, (kb, kn, kh), j, where_j, given, head, 1, M, HAS, E, EB)
    v_tile = grid_tile(v, (kb, kn, kh), j, where_j, given, head, 2, M, HAS, E, EB)
    acc_k = tl.zeros((BK, EB), tl.float32)
    acc_v = tl.zeros((BK, EB), tl.float32)
    for start in range(0, U, BQ):
        i = start + tl.arange(0, BQ)
        where_i, group_i = locate(i, w, tables, U, M)
        q_tile = query_tile(q, (qb, qn, qh), i, where_i, given, head, M, HAS, SHARED, E, EB)
        grad_tile = output_tile(grad, grad_carriers, i, where_i, size_n, head, M, E, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
        own = tl.load(delta + at, mask=i < U, other=0.0)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, H, biases, M, W1, W2, FREE, KIND, CAUSAL, R0, R1, R2)
        weight = tl.exp2(hide(score, group_i, group_j, M, MASKED) - level[:, None])
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        stays = weight
        if DROP:
            kept_tile = keep(i, j, task, tl.load(seed), U, threshold, kept)
            stays = weight * kept_tile
            dweight *= kept_tile
        dscore = weight * (dweight - own[:, None])
        acc_v += tl.dot(tl.trans(stays.to(grad_tile.dtype)), grad_tile, input_precision="ieee")
        acc_k += tl.dot(tl.trans(dscore.to(q_tile.dtype)), q_tile, input_precision="ieee")
    acc_k *= factor
    where_j, group_j = locate(j, w, tables, U, M)
    to = grid_rows(where_j, b, h, (db, dn, dh))
    store_tile(dk, to, acc_k, where_j[1], E, EB)
    store_tile(dv, to, acc_v, where_j[1], E, EB)
    if M > 0:
        to = carrier_rows(j, task, h, H, 3, M, E)
        store_tile(dcarriers, to + H * E, acc_k, j < M, E, EB)
        store_tile(dcarriers, to + 2 * H * E, acc_v, j < M, E, EB)
    if SUM_PADDING:
        store_padding(dpadding, (task // H * blocks + block, h, H), where_j, acc_k, acc_v, E, EB)


@triton.jit
def bias_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, rows, groups, seed,
    dpairs,
    qb, qn, qh, kb, kn, kh, B, H, windows, size_n, pitch, plane, blocks, scale, threshold, kept,
    U: tl.constexpr, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, FREE: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr, MASKED: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) // blocks * BQ + tl.arange(0, BQ)
    j = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    h, part, parts = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    given, tables = (carriers, sample, padding), (rows, groups, pitch)
    biases = (bias, row_code, column_code, pitch, plane)
    fixed = add_bias(tl.zeros((BQ, BK), tl.float32), i, j, h, H, biases, M, W1, W2, FREE, KIND, CAUSAL, R0, R1, R2)
    acc = tl.zeros((BQ, BK), tl.float32)
    for index in range(part, B * windows, parts):
        b, w = index // windows, index % windows
        task = index * H + h
        head = (task, b, h, H)
        where_i, group_i = locate(i, w, tables, U, M)
        q_tile = query_tile(q, (qb, qn, qh), i, where_i, given, head, M, HAS, SHARED, E, EB)
        grad_tile = output_tile(grad, grad_carriers, i, where_i, size_n, head, M, E, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
        own = tl.load(delta + at, mask=i < U, other=0.0)
        where_j, group_j = locate(j, w, tables, U, M)
        k_tile = grid_tile(k, (kb, kn, kh), j, where_j, given, head, 1, M, HAS, E, EB)
        v_tile = grid_tile(v, (kb, kn, kh), j, where_j, given, head, 2, M, HAS, E, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale + fixed
        weight = tl.exp2(hide(score, group_i, group_j, M, MASKED) - level[:, None])
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        acc += weight * (dweight - own[:, None])
    to = dpairs + (part * tl.num_programs(1) + h).to(tl.int64) * U * U
    tl.store(to + (i[:, None] * U + j[None, :]), acc, mask=(i < U)[:, None] & (j < U)[None, :])


@triton.jit
def expand_kernel(
    values, dense, row_code, column_code, H, pitch, plane, U: tl.constexpr, M: tl.constexpr, W1: tl.constexpr,
    W2: tl.constexpr, FREE: tl.constexpr, KIND: tl.constexpr, CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr,
    R2: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Bias of all pairs and what the predicate hides as one dense (H, P, P) tile, once per call: the loops over keys then
    load neighbours instead of gathering. A bias that float16 cannot hold stops at its largest number."""
    blocks = pitch // BK
    i = tl.program_id(0) // blocks * BQ + tl.arange(0, BQ)
    j = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    h = tl.program_id(1)
    found = tl.zeros((BQ, BK), tl.float32)
    if KIND != 0:
        found = entry_tile(i, j, h, H, (values, row_code, column_code, pitch, plane), FREE, KIND)
    if dense.dtype.element_ty == tl.float16:
        found = tl.minimum(tl.maximum(found, -60000.0), 60000.0)
    if CAUSAL or R0 >= 0 or R1 >= 0 or R2 >= 0:
        found = tl.where(far_apart(i, j, M, W1, W2, CAUSAL, R0, R1, R2), float("-inf"), found)
    at = dense + h.to(tl.int64) * pitch * pitch + (i[:, None] * pitch + j[None, :])
    tl.store(at, found.to(dense.dtype.element_ty))


@triton.jit
def table_kernel(
    pairs, code, inverse, dtable, H, T, U, center, rows, M: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr
):  # fmt: skip
    """dtable (rows, H): row r sums the pairs (i, j) with code[i] - code[j] + center = r. inverse: token of a code, or -1.

    BI queries at a time, so that as many loads are under way.
    """
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    h = tl.program_id(1)
    acc = tl.zeros((BR,), tl.float32)
    head = pairs + h.to(tl.int64) * U * U
    for first in range(0, T, BI):
        i = first + tl.arange(0, BI)
        wanted = (tl.load(code + i, mask=i < T, other=0) + center)[None, :] - r[:, None]
        legal = (wanted >= 0) & (wanted < rows) & (r < rows)[:, None] & (i < T)[None, :]
        j = tl.load(inverse + wanted, mask=legal, other=-1)
        found = tl.load(head + ((M + i)[None, :] * U + M + j), mask=legal & (j >= 0), other=0.0)
        acc += tl.sum(found, 1)
    tl.store(dtable + r * H + h, acc, mask=r < rows)
