"""Forward kernel: one program = one head of one window and BQ of its queries; k-loop with online softmax.

In the paper's words: FlashAttention inside windows that exist only as indices.
"""

import triton
import triton.language as tl

from .triton_shared import (
    add_bias,
    carrier_rows,
    grid_tile,
    hide,
    keep,
    locate,
    output_rows,
    query_tile,
    store_tile,
    task_of,
)


@triton.jit
def forward_kernel(
    q, k, v, out, lse, carriers, out_carriers, sample, padding, bias, row_code, column_code, rows, groups, seed,
    qb, qn, qh, kb, kn, kh, H, windows, size_n, pitch, plane, blocks, scale, threshold, kept,
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
    top = tl.full((BQ,), float("-inf"), tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    acc = tl.zeros((BQ, EB), tl.float32)
    for start in range(0, U, BK):
        j = start + tl.arange(0, BK)
        where_j, group_j = locate(j, w, tables, U, M)
        k_tile = grid_tile(k, (kb, kn, kh), j, where_j, given, head, 1, M, HAS, E, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, H, biases, M, W1, W2, FREE, KIND, CAUSAL, R0, R1, R2)
        score = hide(score, group_i, group_j, M, MASKED)
        new = tl.maximum(top, tl.max(score, 1))
        # rows that have seen nothing yet stay at -inf; 0 in its place avoids inf - inf
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - safe[:, None])
        decay = tl.exp2(top - safe)
        total = total * decay + tl.sum(weight, 1)
        if DROP:
            weight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        v_tile = grid_tile(v, (kb, kn, kh), j, where_j, given, head, 2, M, HAS, E, EB)
        acc = acc * decay[:, None] + tl.dot(weight.to(v_tile.dtype), v_tile, input_precision="ieee")
        top = new
    where_i, group_i = locate(i, w, tables, U, M)
    real = where_i[1] | (i < M)
    result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    statistic = tl.where(real, (top + tl.log2(total)) * 0.6931471805599453, float("inf"))
    tl.store(lse + task.to(tl.int64) * U + i, statistic, mask=i < U)
    store_tile(out, output_rows(where_i, size_n, head, E), result, where_i[1], E, EB)
    if M > 0:
        store_tile(out_carriers, carrier_rows(i, task, h, H, 1, M, E), result, i < M, E, EB)
