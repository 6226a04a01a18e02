"""Pieces that the Triton kernels of window attention share: where tokens are, tiles of q, k, v, scores of a tile.

B batch, H heads, E per-head channels, T tokens of a window, M carriers, U = M + T, W windows. Scores are in units of log 2.
Only offsets of a tile's rows are 64-bit; the bias is addressed with 32-bit numbers from a scalar base.

Arguments that always travel together are tuples:
    tables    rows and groups of tables.py, and the pitch of their rows
    where     of a tile of tokens: raster number on the grid, on the grid?, in the window?; see `locate`
    strides   of q, k or v: batch, token, head; channels lie side by side
    given     carriers (B, W, M, 3, H, E), sample (B, 3, H, E) and padding (3, H, E)
    head      task = (b * W + w) * H + h, b, h, H
    bias      values, row and column codes, pitch; see `bias_tile`
"""

# mypy: ignore-errors
# ruff: noqa: RUF059, tuples are unpacked whole so that their parts have names
# (the bodies are in Triton's language)

import triton
import triton.language as tl


@triton.jit
def task_of(windows, H, blocks):
    """(task, window, b, h, block) of this program: one head of one window of one sample, and the tile within it.

    The tile is the fast number, so that programs that read the same keys run at the same time.
    """
    task = tl.program_id(0) // blocks
    return task, task // H % windows, task // H // windows, task % H, tl.program_id(0) % blocks


@triton.jit
def locate(i, w, tables, U: tl.constexpr, M: tl.constexpr):
    """Where tokens i of window w are, and their group."""
    rows, groups, pitch = tables
    row = tl.load(rows + w * pitch + i)
    group = tl.load(groups + w * pitch + i).to(tl.int32)
    return (row, row >= 0, (i >= M) & (i < U)), group


@triton.jit
def grid_rows(where, b, h, strides):
    """64-bit element offsets of tokens."""
    return where[0].to(tl.int64) * strides[1] + (b.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[2])


@triton.jit
def carrier_rows(i, task, h, H, roles, M: tl.constexpr, E: tl.constexpr):
    """64-bit offsets of the carriers of a window in a tensor (B, W, M, roles, H, E)."""
    return ((task // H).to(tl.int64) * M + i) * (roles * H * E) + h * E


@triton.jit
def _complete(
    x, i, in_window, unfilled, given, head, ROLE: tl.constexpr, M: tl.constexpr, HAS: tl.constexpr,
    E: tl.constexpr, EB: tl.constexpr,
):  # fmt: skip
    """A tile of q, k or v with what comes from elsewhere than the grid: padding, the sample's vector, carriers."""
    kind = x.dtype
    carriers, sample, padding = given
    task, b, h, H = head
    e = tl.arange(0, EB)
    real = e < E
    if HAS & 2:
        fill = tl.load(padding + (ROLE * H + h) * E + e, mask=real, other=0.0)
        x = tl.where(unfilled[:, None], fill[None, :], x.to(tl.float32))
    if HAS & 1:
        more = tl.load(sample + ((b * 3 + ROLE) * H + h) * E + e, mask=real, other=0.0)
        x = x.to(tl.float32) + tl.where(in_window[:, None], more[None, :], 0.0)
    if M > 0:
        rows = carrier_rows(i, task, h, H, 3, M, E) + ROLE * H * E
        own = (i < M)[:, None] & real[None, :]
        x = x.to(tl.float32) + tl.load(carriers + rows[:, None] + e[None, :], mask=own, other=0.0)
    return x.to(kind)


@triton.jit
def grid_tile(
    tokens, strides, i, where, given, head, ROLE: tl.constexpr, M: tl.constexpr, HAS: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr,
):  # fmt: skip
    """q, k or v (ROLE) of some tokens, (rows, EB), wherever each comes from. HAS: 1 a sample vector, 2 padding."""
    task, b, h, H = head
    e = tl.arange(0, EB)
    rows = grid_rows(where, b, h, strides)
    x = tl.load(tokens + rows[:, None] + e[None, :], mask=where[1][:, None] & (e < E)[None, :], other=0.0)
    return _complete(x, i, where[2], where[2] & ~where[1], given, head, ROLE, M, HAS, E, EB)


@triton.jit
def query_tile(
    q, strides, i, where, given, head, M: tl.constexpr, HAS: tl.constexpr, SHARED: tl.constexpr, E: tl.constexpr,
    EB: tl.constexpr,
):  # fmt: skip
    """q of some tokens. SHARED: of the sample's one window of queries."""
    if SHARED:
        task, b, h, H = head
        e = tl.arange(0, EB)
        rows = (i - M).to(tl.int64) * strides[1] + (b.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[2])
        x = tl.load(q + rows[:, None] + e[None, :], mask=where[2][:, None] & (e < E)[None, :], other=0.0)
        return _complete(x, i, where[2], where[2], given, head, 0, M, HAS & 1, E, EB)
    else:
        return grid_tile(q, strides, i, where, given, head, 0, M, HAS, E, EB)


@triton.jit
def output_rows(where, size_n, head, E: tl.constexpr):
    """64-bit offsets of tokens in an output-shaped tensor (B, N, H * E)."""
    task, b, h, H = head
    return (b.to(tl.int64) * size_n + where[0]) * (H * E) + h * E


@triton.jit
def output_tile(tokens, carriers, i, where, size_n, head, M: tl.constexpr, E: tl.constexpr, EB: tl.constexpr):
    """Rows of an output-shaped tensor, carriers' (B, W, M, H, E); zero at padded tokens."""
    task, b, h, H = head
    e = tl.arange(0, EB)
    rows = output_rows(where, size_n, head, E)
    found = tl.load(tokens + rows[:, None] + e[None, :], mask=where[1][:, None] & (e < E)[None, :], other=0.0)
    if M > 0:
        rows = carrier_rows(i, task, h, H, 1, M, E)
        found += tl.load(carriers + rows[:, None] + e[None, :], mask=(i < M)[:, None] & (e < E)[None, :], other=0.0)
    return found


@triton.jit
def store_tile(to, rows, x, there, E: tl.constexpr, EB: tl.constexpr):
    """Store the rows of a tile that are there, E channels of each."""
    e = tl.arange(0, EB)
    tl.store(to + rows[:, None] + e[None, :], x.to(to.dtype.element_ty), mask=there[:, None] & (e < E)[None, :])


@triton.jit
def store_padding(dpadding, place, where, acc_k, acc_v, E: tl.constexpr, EB: tl.constexpr):
    """Sums over the padded keys of a tile, (B, W, key blocks, 3, H, E); padded queries are rows of zeros."""
    block, h, H = place
    e = tl.arange(0, EB)
    padded = (where[2] & ~where[1])[:, None]
    to = dpadding + (block.to(tl.int64) * 3 * H + h) * E + e
    tl.store(to, tl.zeros((EB,), tl.float32), mask=e < E)
    tl.store(to + H * E, tl.sum(tl.where(padded, acc_k, 0.0), 0), mask=e < E)
    tl.store(to + 2 * H * E, tl.sum(tl.where(padded, acc_v, 0.0), 0), mask=e < E)


@triton.jit
def far_apart(i, j, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, CAUSAL: tl.constexpr,
              R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr):  # fmt: skip
    """Pairs that the predicate hides: keys after their query, or further than a radius along an axis."""
    a, c = tl.maximum(i - M, 0), tl.maximum(j - M, 0)
    far = (i[:, None] < 0) & (j[None, :] < 0)
    if CAUSAL:
        far = far | ((i >= M)[:, None] & (j[None, :] > i[:, None]))
    both = (i >= M)[:, None] & (j >= M)[None, :]
    if R0 >= 0:
        far = far | (both & (tl.abs((a // (W1 * W2))[:, None] - (c // (W1 * W2))[None, :]) > R0))
    if R1 >= 0:
        far = far | (both & (tl.abs((a // W2 % W1)[:, None] - (c // W2 % W1)[None, :]) > R1))
    if R2 >= 0:
        far = far | (both & (tl.abs((a % W2)[:, None] - (c % W2)[None, :]) > R2))
    return far


@triton.jit
def entry_tile(i, j, h, H, bias, FREE: tl.constexpr, KIND: tl.constexpr):
    """Bias of pairs, in units of log 2, gathered. KIND 1: a table (rows, H), 2: a dense one (H, U, U).

    The codes add up to an entry for every i and j of a tile, also beyond the window's end. FREE carriers have no bias.
    """
    values, row_code, column_code, pitch, plane = bias
    place = tl.load(row_code + i)[:, None] + tl.load(column_code + j)[None, :]
    at = values + h.to(tl.int64) * plane + place
    if KIND == 1:
        at = values + place * H + h
    if FREE > 0:
        found = tl.load(at, mask=(i >= FREE)[:, None] & (j >= FREE)[None, :], other=0.0)
    else:
        found = tl.load(at)
    return found.to(tl.float32) * 1.4426950408889634


@triton.jit
def add_bias(
    score, i, j, h, H, bias, M: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, FREE: tl.constexpr, KIND: tl.constexpr,
    CAUSAL: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr,
):  # fmt: skip
    """Scores with the bias of their pairs, and -inf where the predicate hides a key. KIND 3: a tile of `expand_kernel`,
    which holds both; 0 none, 1 and 2 as in `entry_tile`."""
    if KIND == 3:
        values, row_code, column_code, pitch, plane = bias
        at = values + h.to(tl.int64) * plane
        score += tl.load(at + (i[:, None] * pitch + j[None, :])).to(tl.float32)
    else:
        if KIND != 0:
            score += entry_tile(i, j, h, H, bias, FREE, KIND)
        if CAUSAL or R0 >= 0 or R1 >= 0 or R2 >= 0:
            score = tl.where(far_apart(i, j, M, W1, W2, CAUSAL, R0, R1, R2), float("-inf"), score)
    return score


@triton.jit
def hide(score, group_i, group_j, M: tl.constexpr, MASKED: tl.constexpr):
    """-inf where a key is not to be seen; see tables.py."""
    if MASKED:
        seen = group_i[:, None] == group_j[None, :]
        if M > 0:
            seen = seen | ((group_i < 0)[:, None] & (group_j != 8)[None, :]) | (group_j < 0)[None, :]
        score = tl.where(seen, score, float("-inf"))
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
