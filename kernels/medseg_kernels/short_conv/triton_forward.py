"""The short depthwise convolution on a GPU: every token gathers its taps, forward and for the gradient of x.

One program = one sample (and traversal), TOKENS tokens, BLOCK channels of one head. N tokens, C channels, R traversals,
T taps. The neighbour of a token comes from the tables of tables.py, or in three dimensions from its coordinates.
"""

import triton
import triton.language as tl


@triton.jit
def neighbours(
    order, inverse, bounds, row, token, inside, j, sign, shift, size_n, size_x, size_y, size_z, kx, ky, kz,
    GRID: tl.constexpr, HAS_BOUNDS: tl.constexpr,
):  # fmt: skip
    """Tokens that tap j of some tokens reads, and which of them exist. row: where the traversal's tables begin."""
    if GRID:
        x = token // (size_y * size_z) + sign * (j // (ky * kz) - (kx - 1) // 2)
        y = token // size_z % size_y + sign * (j // kz % ky - (ky - 1) // 2)
        z = token % size_z + sign * (j % kz - (kz - 1) // 2)
        live = inside & (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y) & (z >= 0) & (z < size_z)
        return tl.where(live, (x * size_y + y) * size_z + z, 0).to(tl.int64), live
    else:
        step = tl.load(inverse + row + token, mask=inside, other=0)
        other = step + sign * (j - shift)
        live = inside & (other >= 0) & (other < size_n)
        if HAS_BOUNDS:
            live = live & (other >= tl.load(bounds + 2 * row + step, mask=inside, other=0))
            live = live & (other < tl.load(bounds + 2 * row + size_n + step, mask=inside, other=0))
        return tl.load(order + row + other, mask=live, other=0).to(tl.int64), live


@triton.jit
def find_channels(size_c, heads, BLOCK: tl.constexpr):
    """Channels of this program's block, which lies within one head, their mask and the head."""
    width = size_c // heads
    blocks = (width + BLOCK - 1) // BLOCK
    head = tl.program_id(1) // blocks
    lane = (tl.program_id(1) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return head * width + lane, lane < width, head


@triton.jit
def conv_kernel(
    x, weight, bias, order, inverse, bounds, grad, out,
    x_b, x_r, x_n, grad_b, grad_r, grad_n, count, taps, heads, sign, shift, size_n, size_c, size_x, size_y, size_z, kx, ky, kz,
    GRID: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRAD: tl.constexpr,
    SUM: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (B, R, N, C) = act(convolution). weight (R, T, C), bias (R, C) float32.

    GRAD: out = grad times the derivative of act. SUM: out (B, N, C) sums over the R traversals, x having one each.
    """
    c, live, head = find_channels(size_c, heads, BLOCK)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = token < size_n
    plane = tl.program_id(2).to(tl.int64)
    b, first = plane // count, plane % count
    rounds = 1
    if SUM:
        b, first, rounds = plane, plane * 0, count
    sum_NC = tl.zeros((TOKENS, BLOCK), tl.float32)
    if HAS_BIAS:
        sum_NC += tl.load(bias + first * size_c + c, mask=live, other=0.0)[None, :]
    for i in range(0, rounds):
        r = first + i
        row = (r * heads + head) * size_n
        for j in range(0, taps):
            other, there = neighbours(
                order, inverse, bounds, row, token, inside, j, sign, shift, size_n, size_x, size_y, size_z, kx, ky, kz,
                GRID, HAS_BOUNDS,
            )  # fmt: skip
            weight_C = tl.load(weight + (r * taps + j) * size_c + c, mask=live, other=0.0)
            at = x + b * x_b + r * x_r + other[:, None] * x_n + c[None, :]
            sum_NC += weight_C[None, :] * tl.load(at, mask=there[:, None] & live[None, :], other=0.0).to(tl.float32)
    mask = inside[:, None] & live[None, :]
    if SILU:
        half = 1.0 / (1.0 + tl.exp(-sum_NC))
        if GRAD:
            sum_NC = half * (1.0 + sum_NC * (1.0 - half))
        else:
            sum_NC = sum_NC * half
    if GRAD:
        at = grad + b * grad_b + first * grad_r + token.to(tl.int64)[:, None] * grad_n + c[None, :]
        sum_NC *= tl.load(at, mask=mask, other=0.0).to(tl.float32)
    target = out + (plane * size_n + token[:, None]) * size_c + c[None, :]
    tl.store(target, sum_NC.to(out.dtype.element_ty), mask=mask)
