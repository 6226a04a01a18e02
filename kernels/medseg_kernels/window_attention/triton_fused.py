"""Backward of window attention in one kernel: one program = one head of one window, its keys in the outer loop, its queries in the
inner one, so that every score is computed once for dq, dk and dv.

dq of the window and head is summed in memory of the program's own, small enough for the caches; a barrier separates the rounds
that read it from those that wrote it. No atomics.
"""

import triton
import triton.language as tl

from .triton_backward import LOG2E
from .triton_shared import (
    add_bias,
    carrier_rows,
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


@triton.jit
def fused_kernel(
    q, k, v, out, grad, lse, delta, carriers, out_carriers, grad_carriers, sample, padding, bias, row_code, column_code, rows,
    groups, seed, dq, dk, dv, dcarriers, dpadding, partial,
    qb, qn, qh, kb, kn, kh, qdb, qdn, qdh, db, dn, dh, H, windows, size_n, pitch, plane, blocks, scale, factor, threshold, kept,
    U: tl.constexpr, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, FREE: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr, MASKED: tl.constexpr, SHARED: tl.constexpr, HAS: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, DROP: tl.constexpr,
    SUM_PADDING: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    task, w, b, h, _ = task_of(windows, H, 1)
    given, head, tables = (carriers, sample, padding), (task, b, h, H), (rows, groups, pitch)
    biases = (bias, row_code, column_code, pitch, plane)
    wide, e = task.to(tl.int64), tl.arange(0, EB)
    own_rows = partial + wide * pitch * EB
    for first in range(0, U, BQ):
        i = first + tl.arange(0, BQ)
        where_i, _group = locate(i, w, tables, U, M)
        grad_tile = output_tile(grad, grad_carriers, i, where_i, size_n, head, M, E, EB)
        out_tile = output_tile(out, out_carriers, i, where_i, size_n, head, M, E, EB)
        tl.store(delta + wide * U + i, tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1), mask=i < U)
    tl.debug_barrier()
    for first in range(0, U, BK):
        j = first + tl.arange(0, BK)
        where_j, group_j = locate(j, w, tables, U, M)
        k_tile = grid_tile(k, (kb, kn, kh), j, where_j, given, head, 1, M, HAS, E, EB)
        v_tile = grid_tile(v, (kb, kn, kh), j, where_j, given, head, 2, M, HAS, E, EB)
        acc_k = tl.zeros((BK, EB), tl.float32)
        acc_v = tl.zeros((BK, EB), tl.float32)
        for start in range(0, U, BQ):
            i = start + tl.arange(0, BQ)
            where_i, group_i = locate(i, w, tables, U, M)
            at = own_rows + i[:, None] * EB + e[None, :]
            known = tl.load(at, mask=(i[:, None] < U) & (first > 0), other=0.0)
            q_tile = query_tile(q, (qb, qn, qh), i, where_i, given, head, M, HAS, SHARED, E, EB)
            grad_tile = output_tile(grad, grad_carriers, i, where_i, size_n, head, M, E, EB)
            level = tl.load(lse + wide * U + i, mask=i < U, other=float("inf")) * LOG2E
            own = tl.load(delta + wide * U + i, mask=i < U, other=0.0)
            score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
            score = add_bias(score, i, j, h, H, biases, M, W1, W2, FREE, KIND, CAUSAL, R0, R1, R2)
            weight = tl.exp2(hide(score, group_i, group_j, M, MASKED) - level[:, None])
            dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
            stays = weight
            if DROP:
                kept_tile = keep(i, j, task, tl.load(seed), U, threshold, kept)
                stays = weight * kept_tile
                dweight *= kept_tile
            dscore = (weight * (dweight - own[:, None])).to(q_tile.dtype)
            acc_v += tl.dot(tl.trans(stays.to(grad_tile.dtype)), grad_tile, input_precision="ieee")
            acc_k += tl.dot(tl.trans(dscore), q_tile, input_precision="ieee")
            tl.store(at, known + tl.dot(dscore, k_tile, input_precision="ieee"), mask=i[:, None] < U)
        acc_k *= factor
        to = grid_rows(where_j, b, h, (db, dn, dh))
        store_tile(dk, to, acc_k, where_j[1], E, EB)
        store_tile(dv, to, acc_v, where_j[1], E, EB)
        if M > 0:
            to = carrier_rows(j, task, h, H, 3, M, E)
            store_tile(dcarriers, to + H * E, acc_k, j < M, E, EB)
            store_tile(dcarriers, to + 2 * H * E, acc_v, j < M, E, EB)
        if SUM_PADDING:
            store_padding(dpadding, (task // H * blocks + first // BK, h, H), where_j, acc_k, acc_v, E, EB)
        tl.debug_barrier()
    for first in range(0, U, BQ):
        i = first + tl.arange(0, BQ)
        where_i, _group = locate(i, w, tables, U, M)
        acc = tl.load(own_rows + i[:, None] * EB + e[None, :], mask=i[:, None] < U, other=0.0) * factor
        if SHARED:  # (B, W, T, H, E), added up over windows by the caller; padded queries have zero rows
            to = ((b.to(tl.int64) * windows + w) * (U - M) + i - M) * (H * E) + h * E
            store_tile(dq, to, acc, where_i[2], E, EB)
        else:
            store_tile(dq, grid_rows(where_i, b, h, (qdb, qdn, qdh)), acc, where_i[1], E, EB)
        if M > 0:
            store_tile(dcarriers, carrier_rows(i, task, h, H, 3, M, E), acc, i < M, E, EB)
