"""Backward kernels; the weights are recomputed from the kept log-sum-exp. No atomics: results are the same every time.

`query_kernel` (BQ queries, loop over keys) writes dq and delta; `key_kernel` (BK keys, loop over queries) writes dk, dv and
sums of padded ones; `bias_kernel` (a tile of pairs, loop over a group of windows) keeps the tile's gradient in registers and
writes it once per group; `table_kernel` brings pairs to the bias table, one program per block of its rows.
"""

import triton
import triton.language as tl

from .triton_common import bias_tile, grid_rows, hide, keep, place, tile


@triton.jit
def output_tile(grid, carriers, x, y, z, i, on_grid, task, b, h, H, E, X, Y, Z, M: tl.constexpr, EB: tl.constexpr):
    """Rows of an output-shaped tensor (B, X, Y, Z, H * E), carriers' (B * W * H, M, E); zero at padded tokens."""
    e = tl.arange(0, EB)
    rows = (((b.to(tl.int64) * X + x) * Y + y) * Z + z) * (H * E) + h * E
    found = tl.load(grid + rows[:, None] + e[None, :], mask=on_grid[:, None] & (e < E)[None, :], other=0.0)
    if M > 0:
        rows = (task.to(tl.int64) * M + i) * E
        found += tl.load(carriers + rows[:, None] + e[None, :], mask=(i < M)[:, None] & (e < E)[None, :], other=0.0)
    return found


@triton.jit
def query_kernel(
    q, k, v, out, grad, lse, delta, carriers, out_carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed,
    dq, dcarriers,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve, db, dx, dy, dz, dh,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, factor, threshold, kept,
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
    grad_tile = output_tile(grad, grad_carriers, x, y, z, i, grid_i, task, b, h, H, E, X, Y, Z, M, EB)
    out_tile = output_tile(out, out_carriers, x, y, z, i, grid_i, task, b, h, H, E, X, Y, Z, M, EB)
    own = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    at = task.to(tl.int64) * U + i
    tl.store(delta + at, own, mask=i < U)
    level = tl.load(lse + at, mask=i < U, other=float("inf")) * 1.4426950408889634
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
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score += bias_tile(
            bias, row_code, column_code, i, j, h, entries, U, W1, W2, M, FREE, HAS_BIAS, CAUSAL, R0, R1, R2
        )
        score = hide(score, i, j, region_i, region_j, grid_j, M, HIDE)
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        dscore = tl.exp2(score - level[:, None]) * (dweight - own[:, None])
        acc += tl.dot(dscore.to(k_tile.dtype), k_tile, input_precision="ieee")
    acc *= factor
    e = tl.arange(0, EB)
    if SHARED:  # (B, W, T, H, E), added up over windows by the caller; padded queries have zero rows
        rows = ((b.to(tl.int64) * windows + w) * (U - M) + i - M) * (H * E) + h * E
        tl.store(
            dq + rows[:, None] + e[None, :], acc.to(dq.dtype.element_ty), mask=window_i[:, None] & (e < E)[None, :]
        )
    else:
        x, y, z, region_i, grid_i, window_i = place(i, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
        rows = grid_rows(x, y, z, b, h, db, dx, dy, dz, dh)
        tl.store(dq + rows[:, None] + e[None, :], acc.to(dq.dtype.element_ty), mask=grid_i[:, None] & (e < E)[None, :])
    if M > 0:
        rows = (task.to(tl.int64) * M + i) * (3 * E)
        tl.store(
            dcarriers + rows[:, None] + e[None, :],
            acc.to(dcarriers.dtype.element_ty),
            mask=(i < M)[:, None] & (e < E)[None, :],
        )


@triton.jit
def key_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed,
    dk, dv, dcarriers, dpadding,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve, db, dx, dy, dz, dh,
    H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, factor, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS_SAMPLE: tl.constexpr,
    HAS_PADDING: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr,
    R2: tl.constexpr, DROP: tl.constexpr, SUM_PADDING: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    U = W0 * W1 * W2 + M
    task = tl.program_id(0)
    windows = n0 * n1 * n2
    h, w, b = task % H, task // H % windows, task // H // windows
    j = tl.program_id(1) * BK + tl.arange(0, BK)
    x, y, z, region_j, grid_j, window_j = place(j, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
    rows = grid_rows(x, y, z, b, h, kb, kx, ky, kz, kh)
    k_tile = tile(
        k, rows, grid_j, ke, carriers, sample, padding, j, window_j, task, b, h, H, E, 1, M, HAS_SAMPLE, HAS_PADDING, EB
    )
    rows = grid_rows(x, y, z, b, h, vb, vx, vy, vz, vh)
    v_tile = tile(
        v, rows, grid_j, ve, carriers, sample, padding, j, window_j, task, b, h, H, E, 2, M, HAS_SAMPLE, HAS_PADDING, EB
    )
    acc_k = tl.zeros((BK, EB), tl.float32)
    acc_v = tl.zeros((BK, EB), tl.float32)
    for start in range(0, U, BQ):
        i = start + tl.arange(0, BQ)
        x, y, z, region_i, grid_i, window_i = place(i, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
        if SHARED:
            rows = grid_rows(i - M, y, z, b, h, qb, qx, 0, 0, qh)
            q_tile = tile(
                q,
                rows,
                window_i,
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
                False,
                EB,
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
        grad_tile = output_tile(grad, grad_carriers, x, y, z, i, grid_i, task, b, h, H, E, X, Y, Z, M, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * 1.4426950408889634
        own = tl.load(delta + at, mask=i < U, other=0.0)
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        score += bias_tile(
            bias, row_code, column_code, i, j, h, entries, U, W1, W2, M, FREE, HAS_BIAS, CAUSAL, R0, R1, R2
        )
        score = hide(score, i, j, region_i, region_j, grid_j, M, HIDE)
        weight = tl.exp2(score - level[:, None])
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
    e = tl.arange(0, EB)
    real = (e < E)[None, :]
    x, y, z, region_j, grid_j, window_j = place(j, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
    rows = grid_rows(x, y, z, b, h, db, dx, dy, dz, dh)
    tl.store(dk + rows[:, None] + e[None, :], acc_k.to(dk.dtype.element_ty), mask=grid_j[:, None] & real)
    tl.store(dv + rows[:, None] + e[None, :], acc_v.to(dv.dtype.element_ty), mask=grid_j[:, None] & real)
    if M > 0:
        rows = (task.to(tl.int64) * M + j) * (3 * E)
        own_rows = (j < M)[:, None] & real
        tl.store(dcarriers + rows[:, None] + E + e[None, :], acc_k.to(dcarriers.dtype.element_ty), mask=own_rows)
        tl.store(dcarriers + rows[:, None] + 2 * E + e[None, :], acc_v.to(dcarriers.dtype.element_ty), mask=own_rows)
    if SUM_PADDING:  # (B * W * H, key blocks, 2, E)
        padded = (window_j & ~grid_j)[:, None]
        to = dpadding + (task.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (2 * E) + e
        tl.store(to, tl.sum(tl.where(padded, acc_k, 0.0), 0), mask=e < E)
        tl.store(to + E, tl.sum(tl.where(padded, acc_v, 0.0), 0), mask=e < E)


@triton.jit
def bias_kernel(
    q, k, v, grad, lse, delta, carriers, grad_carriers, sample, padding, bias, row_code, column_code, seed, dpairs,
    qb, qx, qy, qz, qh, qe, kb, kx, ky, kz, kh, ke, vb, vx, vy, vz, vh, ve,
    B, H, E, X, Y, Z, n0, n1, n2, s0, s1, s2, entries, scale, threshold, kept,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, EB: tl.constexpr,
    DILATED: tl.constexpr, HIDE: tl.constexpr, SHARED: tl.constexpr, HAS_SAMPLE: tl.constexpr,
    HAS_PADDING: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr,
    R2: tl.constexpr, DROP: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    U = W0 * W1 * W2 + M
    windows = n0 * n1 * n2
    blocks: tl.constexpr = (U + BK - 1) // BK
    i = tl.program_id(0) // blocks * BQ + tl.arange(0, BQ)
    j = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    h, group, groups = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    fixed = bias_tile(bias, row_code, column_code, i, j, h, entries, U, W1, W2, M, FREE, HAS_BIAS, CAUSAL, R0, R1, R2)
    acc = tl.zeros((BQ, BK), tl.float32)
    for index in range(group, B * windows, groups):
        b, w = index // windows, index % windows
        task = index * H + h
        x, y, z, region_i, grid_i, window_i = place(i, w, X, Y, Z, n0, n1, n2, s0, s1, s2, W0, W1, W2, M, DILATED)
        if SHARED:
            rows = grid_rows(i - M, y, z, b, h, qb, qx, 0, 0, qh)
            q_tile = tile(
                q,
                rows,
                window_i,
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
                False,
                EB,
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
        grad_tile = output_tile(grad, grad_carriers, x, y, z, i, grid_i, task, b, h, H, E, X, Y, Z, M, EB)
        at = task.to(tl.int64) * U + i
        level = tl.load(lse + at, mask=i < U, other=float("inf")) * 1.4426950408889634
        own = tl.load(delta + at, mask=i < U, other=0.0)
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
        score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale + fixed
        score = hide(score, i, j, region_i, region_j, grid_j, M, HIDE)
        dweight = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        if DROP:
            dweight *= keep(i, j, task, tl.load(seed), U, threshold, kept)
        acc += tl.exp2(score - level[:, None]) * (dweight - own[:, None])
    head = dpairs + (group * tl.num_programs(1) + h).to(tl.int64) * U * U
    tl.store(head + i[:, None] * U + j[None, :], acc, mask=(i < U)[:, None] & (j < U)[None, :])


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
