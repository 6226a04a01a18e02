"""Forward kernel: one program = one head of one window and BQ of its queries; k-loop with online softmax.

In the paper's words: FlashAttention inside windows that exist only as indices.
"""

import triton
import triton.language as tl

from .triton_common import bias_tile, grid_rows, hide, keep, place, tile


@triton.jit
def forward_kernel(
    q, k, v, out, lse, carriers, out_carriers, sample, padding, bias, row_code, column_code, seed,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS_SAMPLE: tl.constexpr,
    HAS_PADDING: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr,
    R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    U = W0 * W1 * W2 + M
    task = tl.program_id(0)
    windows = n0 * n1 * n2
    h, w, b = task % H, task // H % windows, task // H // windows
    i = tl.program_id(1) * BQ + tl.arange(0, BQ)
    x, y, z, region_i, grid_i, window_i = place(i, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
    if SHARED:
        rows = grid_rows(i - M, y, z, b, h, qb, qx, 0, 0, qh)
        q_tile = tile(
            q, rows, window_i, qe, carriers, sample, padding, i, window_i, task, b, h, H, E, 0, M, HAS_SAMPLE, False, EB
        )
    else:
        rows = grid_rows(x, y, z, b, h, qb, qx, qy, qz, qh)
        q_tile = tile(
            q,
            rows,
            grid_i,
            qe,
            carriers,
            sample,
            padding,
            i,
            window_i,
            task,
            b,
            h,
            H,
            E,
            0,
            M,
            HAS_SAMPLE,
            HAS_PADDING,
            EB,
        )
    top = tl.full((BQ,), float("-inf"), tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    acc = tl.zeros((BQ, EB), tl.float32)
    for start in range(0, U, BK):
        j = start + tl.arange(0, BK)
        x, y, z, region_j, grid_j, window_j = place(j, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
        rows = grid_rows(x, y, z, b, h, kb, kx, ky, kz, kh)
        k_tile = tile(
            k,
            rows,
            grid_j,
            ke,
            carriers,
            sample,
            padding,
            j,
            window_j,
            task,
            b,
            h,
            H,
            E,
            1,
            M,
            HAS_SAMPLE,
            HAS_PADDING,
            EB,
        )
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score += bias_tile(
            bias, row_code, column_code, i, j, h, entries, U, W1, W2, M, FREE, HAS_BIAS, CAUSAL, R0, R1, R2
        )
        score = hide(score, i, j, region_i, region_j, grid_j, M, HIDE)
        new = tl.maximum(top, tl.max(score, 1))
        # rows that have seen nothing yet (or are padding) stay at -inf; 0 in its place avoids inf - inf
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - safe[:, None])
        decay = tl.exp2(top - safe)
        total = total * decay + tl.sum(weight, 1)
        if DROP:
            weight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        rows = grid_rows(x, y, z, b, h, vb, vx, vy, vz, vh)
        v_tile = tile(
            v,
            rows,
            grid_j,
            ve,
            carriers,
            sample,
            padding,
            j,
            window_j,
            task,
            b,
            h,
            H,
            E,
            2,
            M,
            HAS_SAMPLE,
            HAS_PADDING,
            EB,
        )
        acc = acc * decay[:, None] + tl.dot(weight.to(v_tile.dtype), v_tile, input_precision="ieee")
        top = new
    real = grid_i | (i < M)
    result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    statistic = tl.where(real, (top + tl.log2(total)) * 0.6931471805599453, float("inf"))
    tl.store(lse + task.to(tl.int64) * U + i, statistic, mask=i < U)
    e = tl.arange(0, EB)
    x, y, z, region_i, grid_i, window_i = place(i, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
    rows = (((b.to(tl.int64) * X + x) * Y + y) * Z + z) * (H * E) + h * E
    tl.store(out + rows[:, None] + e[None, :], result.to(out.dtype.element_ty), mask=grid_i[:, None] & (e < E)[None, :])
    if M > 0:
        rows = (task.to(tl.int64) * M + i) * E  # (B * W * H, M, E)
        tl.store(
            out_carriers + rows[:, None] + e[None, :],
            result.to(out.dtype.element_ty),
            mask=(i < M)[:, None] & (e < E)[None, :],
        )
