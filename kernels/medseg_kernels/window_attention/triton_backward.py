"""Backward kernels; the weights are recomputed from the kept log-sum-exp. No atomics: results are the same every time.

`query_kernel` (BQ queries, loop over keys) writes dq and delta; `key_kernel` (BK keys, loop over queries) writes dk, dv and
sums of padded ones; `bias_kernel` (a tile of pairs, loop over a group of windows) keeps the tile's gradient in registers and
writes it once per group; `table_kernel` brings pairs to the bias table, one program per block of its rows.
"""

import triton
import triton.language as tl

from .triton_shared import (
    add_bias,
    grid_rows,
    grid_tile,
    hide,
    keep,
    output_tile,
    place,
    query_tile,
    store_tile,
    task_of,
)

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def query_kernel(
    q, k, v, out, grad, lse, delta, carriers, out_carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed,
    dq, dcarriers,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve, db, dx, dy, dz, dh,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, factor, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, HAS_BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    U: tl.constexpr = W0 * W1 * W2 + M
    grid, window = (X, Y, Z, n0, n1, n2, s0, s1, s2), (W0, W1, W2, M, DILATED, HIDE)
    task = tl.program_id(0)
    w, b, h = task_of(grid, H)
    given, head, biases = (carriers, sample, padding), (task, b, h, H, E), (bias, row_code, column_code, entries)
    i = tl.program_id(1) * BQ + tl.arange(0, BQ)
    where_i, group_i = place(i, w, grid, window)
    q_tile = query_tile(q, (qb, qx, qy, qz, qh, qe), i, where_i, given, head, M, HAS, SHARED, EB)
    grad_tile = output_tile(grad, grad_carriers, i, where_i, grid, head, M, EB)
    out_tile = output_tile(out, out_carriers, i, where_i, grid, head, M, EB)
    own = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    at = task.to(tl.int64) * U + i
    tl.store(delta + at, own, mask=i < U)
    level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
    acc = tl.zeros((BQ, EB), tl.float32)
    for start in range(0, U, BK):
        j = start + tl.arange(0, BK)
        where_j, group_j = place(j, w, grid, window)
        k_tile = grid_tile(k, (kb, kx, ky, kz, kh, ke), j, where_j, given, head, 1, M, HAS, EB)
        v_tile = grid_tile(v, (vb, vx, vy, vz, vh, ve), j, where_j, given, head, 2, M, HAS, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, biases, window, FREE, HAS_BIAS, CAUSAL, R0, R1, R2)
        weight = tl.exp2(hide(score, group_i, group_j, M) - level[:, None])
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        dscore = weight * (dweight - own[:, None])
        acc += tl.dot(dscore.to(k_tile.dtype), k_tile, input_precision="ieee")
    acc *= factor
    where_i, group_i = place(i, w, grid, window)
    if SHARED:  # (B, W, T, H, E), added up over windows by the caller; padded queries have zero rows
        rows = ((b.to(tl.int64) * (n0 * n1 * n2) + w) * (U - M) + i - M) * (H * E) + h * E
        store_tile(dq, rows, acc, where_i[4], E, EB)
    else:
        store_tile(dq, grid_rows(where_i, b, h, (db, dx, dy, dz, dh)), acc, where_i[3], E, EB)
    if M > 0:
        store_tile(dcarriers, (task.to(tl.int64) * M + i) * (3 * E), acc, i < M, E, EB)


@triton.jit
def key_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed,
    dk, dv, dcarriers, dpadding,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve, db, dx, dy, dz, dh,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, factor, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, HAS_BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr,
    SUM_PADDING: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    U: tl.constexpr = W0 * W1 * W2 + M
    grid, window = (X, Y, Z, n0, n1, n2, s0, s1, s2), (W0, W1, W2, M, DILATED, HIDE)
    task = tl.program_id(0)
    w, b, h = task_of(grid, H)
    given, head, biases = (carriers, sample, padding), (task, b, h, H, E), (bias, row_code, column_code, entries)
    j = tl.program_id(1) * BK + tl.arange(0, BK)
    where_j, group_j = place(j, w, grid, window)
    k_tile = grid_tile(k, (kb, kx, ky, kz, kh, ke), j, where_j, given, head, 1, M, HAS, EB)
    v_tile = grid_tile(v, (vb, vx, vy, vz, vh, ve), j, where_j, given, head, 2, M, HAS, EB)
    acc_k = tl.zeros((BK, EB), tl.float32)
    acc_v = tl.zeros((BK, EB), tl.float32)
    for start in range(0, U, BQ):
        i = start + tl.arange(0, BQ)
        where_i, group_i = place(i, w, grid, window)
        q_tile = query_tile(q, (qb, qx, qy, qz, qh, qe), i, where_i, given, head, M, HAS, SHARED, EB)
        grad_tile = output_tile(grad, grad_carriers, i, where_i, grid, head, M, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
        own = tl.load(delta + at, mask=i < U, other=0.0)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, biases, window, FREE, HAS_BIAS, CAUSAL, R0, R1, R2)
        weight = tl.exp2(hide(score, group_i, group_j, M) - level[:, None])
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
    where_j, group_j = place(j, w, grid, window)
    rows = grid_rows(where_j, b, h, (db, dx, dy, dz, dh))
    store_tile(dk, rows, acc_k, where_j[3], E, EB)
    store_tile(dv, rows, acc_v, where_j[3], E, EB)
    if M > 0:
        rows = (task.to(tl.int64) * M + j) * (3 * E)
        store_tile(dcarriers, rows + E, acc_k, j < M, E, EB)
        store_tile(dcarriers, rows + 2 * E, acc_v, j < M, E, EB)
    if SUM_PADDING:  # (B * W * H, key blocks, 2, E)
        e = tl.arange(0, EB)
        padded = (where_j[4] & ~where_j[3])[:, None]
        to = dpadding + (task.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (2 * E) + e
        tl.store(to, tl.sum(tl.where(padded, acc_k, 0.0), 0), mask=e < E)
        tl.store(to + E, tl.sum(tl.where(padded, acc_v, 0.0), 0), mask=e < E)


@triton.jit
def bias_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed, dpairs,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve,
    B, H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, HAS_BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    U: tl.constexpr = W0 * W1 * W2 + M
    grid, window = (X, Y, Z, n0, n1, n2, s0, s1, s2), (W0, W1, W2, M, DILATED, HIDE)
    windows = n0 * n1 * n2
    blocks: tl.constexpr = (U + BK - 1) // BK
    i = tl.program_id(0) // blocks * BQ + tl.arange(0, BQ)
    j = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    h, part, parts = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    given, biases = (carriers, sample, padding), (bias, row_code, column_code, entries)
    fixed = add_bias(tl.zeros((BQ, BK), tl.float32), i, j, h, biases, window, FREE, HAS_BIAS, CAUSAL, R0, R1, R2)
    acc = tl.zeros((BQ, BK), tl.float32)
    for index in range(part, B * windows, parts):
        b, w = index // windows, index % windows
        task = index * H + h
        head = (task, b, h, H, E)
        where_i, group_i = place(i, w, grid, window)
        q_tile = query_tile(q, (qb, qx, qy, qz, qh, qe), i, where_i, given, head, M, HAS, SHARED, EB)
        grad_tile = output_tile(grad, grad_carriers, i, where_i, grid, head, M, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * LOG2E
        own = tl.load(delta + at, mask=i < U, other=0.0)
        where_j, group_j = place(j, w, grid, window)
        k_tile = grid_tile(k, (kb, kx, ky, kz, kh, ke), j, where_j, given, head, 1, M, HAS, EB)
        v_tile = grid_tile(v, (vb, vx, vy, vz, vh, ve), j, where_j, given, head, 2, M, HAS, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale + fixed
        weight = tl.exp2(hide(score, group_i, group_j, M) - level[:, None])
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        acc += weight * (dweight - own[:, None])
    to = dpairs + (part * tl.num_programs(1) + h).to(tl.int64) * U * U
    tl.store(to + (i[:, None] * U + j[None, :]), acc, mask=(i < U)[:, None] & (j < U)[None, :])


@triton.jit
def table_kernel(pairs, code, inverse, dtable, H, T, U, center, rows, groups, M: tl.constexpr, BR: tl.constexpr):
    """dtable (rows, H): row r sums the pairs (i, j) with code[i] - code[j] + center = r. inverse: token of a code, or -1."""
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    h = tl.program_id(1)
    acc = tl.zeros((BR,), tl.float32)
    for i in range(T):
        wanted = tl.load(code + i) + center - r
        legal = (wanted >= 0) & (wanted < rows) & (r < rows)
        j = tl.load(inverse + wanted, mask=legal, other=-1)
        at = (M + i) * U + M + j
        for g in range(groups):
            head = pairs + (g * H + h).to(tl.int64) * U * U
            acc += tl.load(head + at, mask=legal & (j >= 0), other=0.0)
    tl.store(dtable + r * H + h, acc, mask=r < rows)
