"""Pieces that the Triton kernels of window attention share: where tokens are, tiles of q, k, v, scores of a tile.

B batch, H heads, E per-head channels, T tokens of a window, M carriers, U = M + T, W windows. Scores are in units of log 2.
Only offsets of a tile's rows are 64-bit; the bias is addressed with 32-bit numbers from a scalar base.

Arguments that always travel together are tuples:
    grid      X, Y, Z, windows per axis n0, n1, n2, shifts s0, s1, s2
    window    tokens per axis W0, W1, W2, carriers M, and the flags DILATED and HIDE (padding is seen by none), all constexpr
    where     of a tile of tokens: x, y, z, on the grid, in the window; see `place`
    strides   of q, k or v: batch, x, y, z, head, channel
    given     carriers (B * W * H, M, 3, E), sample (B, 3, H, E) and padding (3, H, E)
    head      task = (b * W + w) * H + h, b, h, H, E
"""

# mypy: ignore-errors
# ruff: noqa: RUF059, tuples are unpacked whole so that their parts have names
# (the bodies are in Triton's language)

import triton
import triton.language as tl


@triton.jit
def task_of(grid, H):
    """(window, b, h) of this program: one head of one window of one sample."""
    task = tl.program_id(0)
    windows = grid[3] * grid[4] * grid[5]
    return task // H % windows, task // H // windows, task % H


@triton.jit
def place(i, w, grid, window):
    """Where tokens i of window w are, and their group: queries see the keys of their own group.

    Groups 0 to 7 say along which axes a token wrapped around. 8 is the group of what no real query sees: padding if HIDE,
    and what lies beyond the window's end. -1 is the group of carriers, which see all but 8 and are seen by all.
    """
    X, Y, Z, n0, n1, n2, s0, s1, s2 = grid
    W0, W1, W2, M, DILATED, HIDE = window
    local = i - M
    in_window = (local >= 0) & (local < W0 * W1 * W2)
    if DILATED:
        p0 = local // (W1 * W2) * n0 + w // (n1 * n2)
        p1 = (local // W2) % W1 * n1 + (w // n2) % n1
        p2 = local % W2 * n2 + w % n2
    else:
        p0 = w // (n1 * n2) * W0 + local // (W1 * W2)
        p1 = (w // n2) % n1 * W1 + (local // W2) % W1
        p2 = w % n2 * W2 + local % W2
    x, y, z = p0 + s0, p1 + s1, p2 + s2
    wrapped0, wrapped1, wrapped2 = x >= n0 * W0, y >= n1 * W1, z >= n2 * W2
    group = wrapped0.to(tl.int32) * 4 + wrapped1.to(tl.int32) * 2 + wrapped2.to(tl.int32)
    x, y, z = tl.where(wrapped0, x - n0 * W0, x), tl.where(wrapped1, y - n1 * W1, y), tl.where(wrapped2, z - n2 * W2, z)
    on_grid = in_window & (x < X) & (y < Y) & (z < Z)
    group = tl.where(on_grid if HIDE else in_window, group, 8)
    if M > 0:
        group = tl.where(i < M, -1, group)
    return (x, y, z, on_grid, in_window), group


@triton.jit
def grid_rows(where, b, h, strides):
    """64-bit element offsets of tokens."""
    row = where[0].to(tl.int64) * strides[1] + where[1].to(tl.int64) * strides[2] + where[2].to(tl.int64) * strides[3]
    return row + (b.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[4])


@triton.jit
def _complete(
    x, i, in_window, unfilled, given, head, ROLE: tl.constexpr, M: tl.constexpr, HAS: tl.constexpr, EB: tl.constexpr
):
    """A tile of q, k or v with what comes from elsewhere than the grid: padding, the sample's vector, carriers."""
    kind = x.dtype
    carriers, sample, padding = given
    task, b, h, H, E = head
    e = tl.arange(0, EB)
    real = e < E
    if HAS & 2:
        fill = tl.load(padding + (ROLE * H + h) * E + e, mask=real, other=0.0)
        x = tl.where(unfilled[:, None], fill[None, :], x.to(tl.float32))
    if HAS & 1:
        more = tl.load(sample + ((b * 3 + ROLE) * H + h) * E + e, mask=real, other=0.0)
        x = x.to(tl.float32) + tl.where(in_window[:, None], more[None, :], 0.0)
    if M > 0:
        rows = (task.to(tl.int64) * M + i) * (3 * E) + ROLE * E
        own = (i < M)[:, None] & real[None, :]
        x = x.to(tl.float32) + tl.load(carriers + rows[:, None] + e[None, :], mask=own, other=0.0)
    return x.to(kind)


@triton.jit
def grid_tile(
    tokens, strides, i, where, given, head, ROLE: tl.constexpr, M: tl.constexpr, HAS: tl.constexpr, EB: tl.constexpr
):
    """q, k or v (ROLE) of some tokens, (rows, EB), wherever each comes from. HAS: 1 a sample vector, 2 padding."""
    task, b, h, H, E = head
    e = tl.arange(0, EB)
    rows = grid_rows(where, b, h, strides)
    there = where[3][:, None] & (e < E)[None, :]
    x = tl.load(tokens + rows[:, None] + (e * strides[5])[None, :], mask=there, other=0.0)
    return _complete(x, i, where[4], where[4] & ~where[3], given, head, ROLE, M, HAS, EB)


@triton.jit
def query_tile(
    q, strides, i, where, given, head, M: tl.constexpr, HAS: tl.constexpr, SHARED: tl.constexpr, EB: tl.constexpr
):
    """q of some tokens. SHARED: of the sample's one window of queries, whose strides are batch, token, -, -, head, channel."""
    if SHARED:
        task, b, h, H, E = head
        e = tl.arange(0, EB)
        rows = (i - M).to(tl.int64) * strides[1] + (b.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[4])
        there = where[4][:, None] & (e < E)[None, :]
        x = tl.load(q + rows[:, None] + (e * strides[5])[None, :], mask=there, other=0.0)
        return _complete(x, i, where[4], where[4], given, head, 0, M, HAS & 1, EB)
    else:
        return grid_tile(q, strides, i, where, given, head, 0, M, HAS, EB)


@triton.jit
def output_rows(where, grid, head):
    """64-bit offsets of tokens in an output-shaped tensor (B, X, Y, Z, H * E)."""
    task, b, h, H, E = head
    return (((b.to(tl.int64) * grid[0] + where[0]) * grid[1] + where[1]) * grid[2] + where[2]) * (H * E) + h * E


@triton.jit
def output_tile(tokens, carriers, i, where, grid, head, M: tl.constexpr, EB: tl.constexpr):
    """Rows of an output-shaped tensor, carriers' (B * W * H, M, E); zero at padded tokens."""
    task, b, h, H, E = head
    e = tl.arange(0, EB)
    rows = output_rows(where, grid, head)
    found = tl.load(tokens + rows[:, None] + e[None, :], mask=where[3][:, None] & (e < E)[None, :], other=0.0)
    if M > 0:
        rows = (task.to(tl.int64) * M + i) * E
        found += tl.load(carriers + rows[:, None] + e[None, :], mask=(i < M)[:, None] & (e < E)[None, :], other=0.0)
    return found


@triton.jit
def store_tile(to, rows, x, there, E, EB: tl.constexpr):
    """Store the rows of a tile that are there, E channels of each."""
    e = tl.arange(0, EB)
    tl.store(to + rows[:, None] + e[None, :], x.to(to.dtype.element_ty), mask=there[:, None] & (e < E)[None, :])


@triton.jit
def add_bias(
    score, i, j, h, bias, window, FREE: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr,
    R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr,
):  # fmt: skip
    """Scores with the bias of their pairs, and -inf where the predicate hides a key.

    bias: values (H, entries), row and column codes, entries. The codes add up to an entry for every i and j of a tile, also
    beyond the window's end (the caller lengthens them). FREE carriers have no bias (a table's case).
    """
    values, row_code, column_code, entries = bias
    W0, W1, W2, M, DILATED, HIDE = window
    if HAS_BIAS:
        place = tl.load(row_code + i)[:, None] + tl.load(column_code + j)[None, :]
        head = values + h.to(tl.int64) * entries
        if FREE > 0:
            score += tl.load(head + place, mask=(i >= FREE)[:, None] & (j >= FREE)[None, :], other=0.0)
        else:
            score += tl.load(head + place)
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
def hide(score, group_i, group_j, M: tl.constexpr):
    """-inf where a key is not to be seen; see `place`."""
    seen = group_i[:, None] == group_j[None, :]
    if M > 0:
        seen = seen | ((group_i < 0)[:, None] & (group_j != 8)[None, :]) | (group_j < 0)[None, :]
    return tl.where(seen, score, float("-inf"))


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
