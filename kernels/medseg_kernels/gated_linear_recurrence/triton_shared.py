# mypy: ignore-errors
"""Device functions shared by the kernels: rows of a chunk, decays, scores of a pair with their gradients, a small inverse.

C steps per chunk, K key channels (padded to BK), V value channels (blocks of BV). One program works on one chunk, or walks
the chunks of one piece. Cumulative decays are in units of log2, inside a chunk only, and never positive.
DECAY: 0 none, 1 constant per head (given as a natural logarithm), 2 per head and step, 3 per key channel.
WRITE: 0 plain, 1 gate, 2 delta rule.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# 2^-43 forgets all that float32 holds; lower would cost digits of milder decays in the same sum
FLOOR = tl.constexpr(-43.0)


@triton.jit
def rows_of(order, order_row, start, count, size_n, HAS_ORDER: tl.constexpr, C: tl.constexpr):
    """Tokens (int64) of a chunk's steps, and which steps exist."""
    steps = tl.arange(0, C)
    exists = steps < count
    tokens = start + steps
    if HAS_ORDER:
        tokens = tl.load(order + order_row.to(tl.int64) * size_n + tokens, mask=exists, other=0)
    return tokens.to(tl.int64), exists


@triton.jit
def load_rows(base, stride_n, tokens, exists, width, columns):
    """(C, BE) tile of tokens' channels; steps and channels that do not exist read as zero."""
    at = base + tokens[:, None] * stride_n + columns[None, :]
    return tl.load(at, mask=exists[:, None] & (columns < width)[None, :], other=0.0)


@triton.jit
def load_tile(base, width, rows, columns):
    """A (rows, columns) tile of a dense workspace whose rows hold `width` numbers; missing columns read as zero."""
    at = base + rows[:, None] * width + columns[None, :]
    return tl.load(at, mask=(columns < width)[None, :], other=0.0)


@triton.jit
def store_tile(base, width, rows, columns, tile):
    at = base + rows[:, None] * width + columns[None, :]
    tl.store(at, tile.to(base.dtype.element_ty), mask=(columns < width)[None, :])


@triton.jit
def load_state(base, size_k, size_v, keys, values):
    """(BK, BV) block of a K x V state."""
    mask = (keys < size_k)[:, None] & (values < size_v)[None, :]
    return tl.load(base + keys[:, None] * size_v + values[None, :], mask=mask, other=0.0)


@triton.jit
def store_state(base, size_k, size_v, keys, values, tile):
    mask = (keys < size_k)[:, None] & (values < size_v)[None, :]
    tl.store(base + keys[:, None] * size_v + values[None, :], tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def load_decay(cum, chunk, head, count, size_k, keys, DECAY: tl.constexpr, C: tl.constexpr):
    """Cumulative decay of a chunk's steps and at its end: (C, 1) and (1, 1), or (C, BK) and (1, BK) per key channel."""
    steps = tl.arange(0, C)
    if DECAY == 3:
        at = cum + chunk * C * size_k
        mask = (keys < size_k)[None, :]
        total = tl.load(at + steps[:, None] * size_k + keys[None, :], mask=mask, other=0.0)
        last = tl.load(at + (C - 1) * size_k + keys[None, :], mask=mask, other=0.0)
    elif DECAY == 2:
        total = tl.load(cum + chunk * C + steps)[:, None]
        last = tl.load(cum + chunk * C + C - 1 + tl.zeros([1, 1], tl.int32))
    elif DECAY == 1:
        rate = tl.maximum(tl.load(cum + head) * LOG2E, FLOOR)
        total = (tl.minimum(steps + 1, count) * rate)[:, None]
        last = tl.zeros([1, 1], tl.float32) + count * rate
    else:
        total = tl.zeros([C, 1], tl.float32)
        last = tl.zeros([1, 1], tl.float32)
    return total, last


@triton.jit
def pair(left, right, total, cum, chunk, size_k, keys, DECAY: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr):
    """scores[i, j] = sum_k left[i, k] right[j, k] exp2(total[i, k] - total[j, k]) for i >= j, else 0; float32."""
    if DECAY == 3:
        scores = pair_by_halves(left, right, total, cum, chunk, size_k, keys, C, PRECISION)
    else:
        scores = tl.dot(left, tl.trans(right), input_precision=PRECISION)
        if DECAY != 0:
            scores *= tl.exp2(tl.minimum(total - tl.trans(total), 0.0))
        scores = tl.where(tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :], scores, 0.0)
    return scores


@triton.jit
def pair_by_halves(left, right, total, cum, chunk, size_k, keys, C: tl.constexpr, PRECISION: tl.constexpr):
    """`pair` for a decay per key channel, which does not factor out of the sum.

    The triangle is halved again and again: every square takes its own border as the reference, so both factors stay <= 1.
    """
    i = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    LEVELS: tl.constexpr = 6 if C == 64 else 5
    wide_left, wide_right = left.to(tl.float32), right.to(tl.float32)
    scores = tl.where(i == j, tl.sum(wide_left * wide_right, 1)[:, None], 0.0)
    # a loop, not unrolled: the compiler would load all borders at once and run out of registers
    for level in tl.range(0, LEVELS, num_stages=1):
        fade_left, fade_right = border_factors(total, cum, chunk, level, size_k, keys, C)
        tail = (wide_left * fade_left).to(left.dtype)
        head = (wide_right * fade_right).to(left.dtype)
        square = tl.dot(tail, tl.trans(head), input_precision=PRECISION)
        scores += tl.where((i >> (level + 1)) == (j >> (level + 1)), square, 0.0)
    return scores


@triton.jit
def border_factors(total, cum, chunk, level, size_k, keys, C: tl.constexpr):
    """Decay from the border of each pair of blocks (2^level steps each) to its second half, and from its first half."""
    steps = tl.arange(0, C)
    border = ((steps >> (level + 1)) << (level + 1)) + (1 << level) - 1
    at = cum + chunk * C * size_k + border[:, None] * size_k + keys[None, :]
    reference = tl.load(at, mask=(keys < size_k)[None, :], other=0.0)
    second = (((steps >> level) & 1) == 1)[:, None]
    fade_left = tl.where(second, tl.exp2(tl.minimum(total - reference, 0.0)), 0.0)
    fade_right = tl.where(second, 0.0, tl.exp2(tl.minimum(reference - total, 0.0)))
    return fade_left, fade_right


@triton.jit
def pair_backward(
    d_scores, left, right, total, cum, chunk, size_k, keys,
    DECAY: tl.constexpr, C: tl.constexpr, STRICT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of `pair` for left and right, float32; of the diagonal too unless STRICT."""
    if DECAY == 3:
        d_left, d_right = pair_by_halves_backward(
            d_scores, left, right, total, cum, chunk, size_k, keys, C, STRICT, PRECISION
        )
    else:
        if DECAY != 0:
            d_scores *= tl.exp2(tl.minimum(total - tl.trans(total), 0.0))
        i = tl.arange(0, C)[:, None]
        j = tl.arange(0, C)[None, :]
        d_scores = tl.where(i > j if STRICT else i >= j, d_scores, 0.0).to(left.dtype)
        d_left = tl.dot(d_scores, right, input_precision=PRECISION)
        d_right = tl.dot(tl.trans(d_scores), left, input_precision=PRECISION)
    return d_left, d_right


@triton.jit
def pair_by_halves_backward(
    d_scores, left, right, total, cum, chunk, size_k, keys,
    C: tl.constexpr, STRICT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`pair_backward` for a decay per key channel."""
    i = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    LEVELS: tl.constexpr = 6 if C == 64 else 5
    wide_left, wide_right = left.to(tl.float32), right.to(tl.float32)
    diagonal = tl.sum(tl.where((i == j) & (not STRICT), d_scores, 0.0), 1)[:, None]
    d_left, d_right = diagonal * wide_right, diagonal * wide_left
    for level in tl.range(0, LEVELS, num_stages=1):
        fade_left, fade_right = border_factors(total, cum, chunk, level, size_k, keys, C)
        inside = ((i >> (level + 1)) == (j >> (level + 1))) & ((i >> level) > (j >> level))
        square = tl.where(inside, d_scores, 0.0).to(left.dtype)
        head = (wide_right * fade_right).to(left.dtype)
        d_left += fade_left * tl.dot(square, head, input_precision=PRECISION)
        tail = (wide_left * fade_left).to(left.dtype)
        d_right += fade_right * tl.dot(tl.trans(square), tail, input_precision=PRECISION)
    return d_left, d_right


@triton.jit
def unit_lower_inverse(lower, C: tl.constexpr):
    """Inverse of I + lower for a strictly lower triangular (C, C), float32.

    Diagonal blocks of 16 by substitution, all at once; then neighbouring blocks are joined, [[A, 0], [B, D]] having the
    inverse [[A', 0], [-D' B A', D']], with products of whole tiles under a mask.
    """
    BLOCKS: tl.constexpr = C // 16
    block = tl.arange(0, BLOCKS)
    same = (block[:, None] == block[None, :])[:, None, :, None]
    diagonal = tl.sum(tl.where(same, tl.reshape(lower, [BLOCKS, 16, BLOCKS, 16]), 0.0), 2)  # (blocks, 16, 16)
    row = tl.arange(0, 16)
    inverse = tl.where((row[:, None] == row[None, :])[None, :, :], 1.0, 0.0) + tl.zeros_like(diagonal)
    for i in tl.range(1, 16, num_stages=1):
        weights = tl.sum(tl.where((row == i)[None, :, None], diagonal, 0.0), 1)  # row i of every block, (blocks, 16)
        update = tl.sum(weights[:, :, None] * inverse, 1)  # (blocks, 16)
        inverse -= tl.where((row == i)[None, :, None], update[:, None, :], 0.0)
    full = tl.reshape(tl.where(same, inverse[:, :, None, :], 0.0), [C, C])
    i = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    JOINS: tl.constexpr = 2 if C == 64 else 1
    for join in tl.range(0, JOINS, num_stages=1):
        below = ((i >> (join + 5)) == (j >> (join + 5))) & ((i >> (join + 4)) > (j >> (join + 4)))
        square = tl.dot(full, tl.where(below, lower, 0.0), input_precision="ieee")
        full -= tl.where(below, tl.dot(square, full, input_precision="ieee"), 0.0)
    return full
