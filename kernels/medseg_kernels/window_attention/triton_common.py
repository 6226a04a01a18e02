"""Pieces that the Triton kernels of window attention share: where tokens are, tiles of q, k, v, scores of a tile.

B batch, H heads, E per-head channels, T tokens of a window, M carriers, U = M + T, W windows. Scores are in units of log 2.
Only offsets of a tile's rows are 64-bit; the bias is addressed with 32-bit numbers from a scalar base.
"""

# mypy: ignore-errors
# (the bodies are in Triton's language)

import triton
import triton.language as tl


@triton.jit
def place(
    i, w, X, Y, Z, n0, n1, n2, s0, s1, s2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, DILATED: tl.constexpr,
):  # fmt: skip
    """Grid coordinates, region, on-grid and in-window flags of tokens i of window w; a carrier is in no window."""
    local = i - M
    in_window = (local >= 0) & (local < W0 * W1 * W2)
    local = tl.where(in_window, local, 0)
    if DILATED:
        p0 = local // (W1 * W2) * n0 + w // (n1 * n2)
        p1 = (local // W2) % W1 * n1 + (w // n2) % n1
        p2 = local % W2 * n2 + w % n2
    else:
        p0 = w // (n1 * n2) * W0 + local // (W1 * W2)
        p1 = (w // n2) % n1 * W1 + (local // W2) % W1
        p2 = w % n2 * W2 + local % W2
    wrapped0, wrapped1, wrapped2 = p0 >= n0 * W0 - s0, p1 >= n1 * W1 - s1, p2 >= n2 * W2 - s2
    region = wrapped0.to(tl.int32) * 4 + wrapped1.to(tl.int32) * 2 + wrapped2.to(tl.int32)
    x, y, z = (p0 + s0) % (n0 * W0), (p1 + s1) % (n1 * W1), (p2 + s2) % (n2 * W2)
    on_grid = in_window & (x < X) & (y < Y) & (z < Z)
    return x, y, z, region, on_grid, in_window


@triton.jit
def grid_rows(x, y, z, b, h, sb, sx, sy, sz, sh):
    """64-bit element offsets of tokens."""
    row = x.to(tl.int64) * sx + y.to(tl.int64) * sy + z.to(tl.int64) * sz
    return row + b.to(tl.int64) * sb + h.to(tl.int64) * sh


@triton.jit
def tile(
    grid_ptr, rows, on_grid, step, carriers_ptr, sample_ptr, padding_ptr, i, in_window, task, b, h, H, E,
    ROLE: tl.constexpr, M: tl.constexpr, HAS_SAMPLE: tl.constexpr, HAS_PADDING: tl.constexpr, EB: tl.constexpr,
):  # fmt: skip
    """q, k or v (ROLE) of some tokens, (rows, EB), wherever each comes from. carriers: (B * W * H, M, 3, E)."""
    e = tl.arange(0, EB)
    real = e < E
    x = tl.load(grid_ptr + rows[:, None] + (e * step)[None, :], mask=on_grid[:, None] & real[None, :], other=0.0)
    kind = x.dtype
    if HAS_PADDING:
        fill = tl.load(padding_ptr + (ROLE * H + h) * E + e, mask=real, other=0.0)
        x = tl.where((in_window & ~on_grid)[:, None], fill[None, :], x.to(tl.float32))
    if HAS_SAMPLE:
        more = tl.load(sample_ptr + ((b * 3 + ROLE) * H + h) * E + e, mask=real, other=0.0)
        x = x.to(tl.float32) + tl.where(in_window[:, None], more[None, :], 0.0)
    if M > 0:
        rows_c = (task.to(tl.int64) * M + i) * (3 * E) + ROLE * E
        own = (i < M)[:, None] & real[None, :]
        x = x.to(tl.float32) + tl.load(carriers_ptr + rows_c[:, None] + e[None, :], mask=own, other=0.0)
    return x.to(kind)


@triton.jit
def bias_tile(
    bias_ptr, row_code, column_code, i, j, h, entries, U,
    W1: tl.constexpr, W2: tl.constexpr, M: tl.constexpr, FREE: tl.constexpr, HAS_BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr,
):  # fmt: skip
    """Bias of a tile of pairs with -inf where the predicate or the end of the window hides a key.

    FREE carriers have no bias (a table's case). The codes add up to the entry of the bias.
    """
    seen = (j < U)[None, :] & (i < U)[:, None]
    score = tl.where((j < U)[None, :], 0.0, float("-inf")) + tl.zeros_like(i)[:, None].to(tl.float32)
    if HAS_BIAS:
        rows = tl.load(row_code + i, mask=i < U, other=0)
        columns = tl.load(column_code + j, mask=j < U, other=0)
        known = seen & (i >= FREE)[:, None] & (j >= FREE)[None, :]
        head = bias_ptr + h * entries.to(tl.int64)
        score += tl.load(head + (rows[:, None] + columns[None, :]), mask=known, other=0.0)
    if CAUSAL:
        score = tl.where((i >= M)[:, None] & (j[None, :] > i[:, None]), float("-inf"), score)
    a, c = tl.maximum(i - M, 0), tl.maximum(j - M, 0)
    both = (i >= M)[:, None] & (j >= M)[None, :]
    if R0 >= 0:
        far = tl.abs((a // (W1 * W2))[:, None] - (c // (W1 * W2))[None, :]) > R0
        score = tl.where(both & far, float("-inf"), score)
    if R1 >= 0:
        far = tl.abs((a // W2 % W1)[:, None] - (c // W2 % W1)[None, :]) > R1
        score = tl.where(both & far, float("-inf"), score)
    if R2 >= 0:
        score = tl.where(both & (tl.abs((a % W2)[:, None] - (c % W2)[None, :]) > R2), float("-inf"), score)
    return score


@triton.jit
def hide(score, i, j, region_i, region_j, on_grid_j, M: tl.constexpr, HIDE: tl.constexpr):
    """-inf where a key lies in another region or, if HIDE, is padding."""
    both = (i >= M)[:, None] & (j >= M)[None, :]
    score = tl.where(both & (region_i[:, None] != region_j[None, :]), float("-inf"), score)
    if HIDE:
        score = tl.where(((j >= M) & ~on_grid_j)[None, :], float("-inf"), score)
    return score


@triton.jit
def keep(i, j, task, seed, U, threshold, kept):
    """1 / (1 - dropout) where a score stays, else 0: Philox 2x32 of seven rounds, as in dropout.py."""
    c0 = (i[:, None] * U + j[None, :]).to(tl.uint32)
    c1 = tl.zeros_like(c0) + task.to(tl.uint32)
    key = tl.zeros_like(c0) + seed.to(tl.uint32)
    factor = tl.full(c0.shape, 0xD256D193, tl.uint32)
    weyl = tl.full(c0.shape, 0x9E3779B9, tl.uint32)
    for _ in tl.static_range(7):
        high = tl.umulhi(c0, factor)
        low = c0 * factor
        c0 = high ^ key ^ c1
        c1 = low
        key = key + weyl
    return tl.where(c0.to(tl.int64) >= threshold, kept, 0.0)
