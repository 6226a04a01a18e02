"""Forward kernel: one program = one head of one window and BQ of its queries; k-loop with online softmax.

In the paper's words: FlashAttention inside windows that exist only as indices.
"""

import triton
import triton.language as tl

from .triton_shared import add_bias, grid_tile, hide, keep, output_rows, place, query_tile, store_tile, task_of


@triton.jit
def forward_kernel(
    q, k, v, out, lse, carriers, out_carriers, sample, padding, bias, row_code, column_code, seed,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, threshold, kept,
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
    top = tl.full((BQ,), float("-inf"), tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    acc = tl.zeros((BQ, EB), tl.float32)
    for start in range(0, U, BK):
        j = start + tl.arange(0, BK)
        where_j, group_j = place(j, w, grid, window)
        k_tile = grid_tile(k, (kb, kx, ky, kz, kh, ke), j, where_j, given, head, 1, M, HAS, EB)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score = add_bias(score, i, j, h, biases, window, FREE, HAS_BIAS, CAUSAL, R0, R1, R2)
        score = hide(score, group_i, group_j, M)
        new = tl.maximum(top, tl.max(score, 1))
        # rows that have seen nothing yet stay at -inf; 0 in its place avoids inf - inf
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - safe[:, None])
        decay = tl.exp2(top - safe)
        total = total * decay + tl.sum(weight, 1)
        if DROP:
            weight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        v_tile = grid_tile(v, (vb, vx, vy, vz, vh, ve), j, where_j, given, head, 2, M, HAS, EB)
        acc = acc * decay[:, None] + tl.dot(weight.to(v_tile.dtype), v_tile, input_precision="ieee")
        top = new
    where_i, group_i = place(i, w, grid, window)
    real = where_i[3] | (i < M)
    result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    statistic = tl.where(real, (top + tl.log2(total)) * 0.6931471805599453, float("inf"))
    tl.store(lse + task.to(tl.int64) * U + i, statistic, mask=i < U)
    store_tile(out, output_rows(where_i, grid, head), result, where_i[3], E, EB)
    if M > 0:  # (B * W * H, M, E)
        store_tile(out_carriers, (task.to(tl.int64) * M + i) * E, result, i < M, E, EB)
