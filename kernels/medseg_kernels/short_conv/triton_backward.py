"""Gradient of weight and bias of the short convolution on a GPU. Legend as in triton_forward.py.

The gradient of x is `conv_kernel` with the taps turned round. No atomics: a program sums its span of tokens for one tap
and writes a partial sum, torch adds those up in a fixed order.
"""

import triton
import triton.language as tl

from .triton_forward import find_channels, neighbours


@triton.jit
def weight_kernel(
    x, through, order, inverse, bounds, partial, partial_bias,
    x_b, x_n, count, taps, heads, shift, size_n, size_c, size_x, size_y, size_z, kx, ky, kz, spans, span,
    GRID: tl.constexpr, HAS_BOUNDS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """partial (spans, B, R, C, T), partial_bias (spans, B, R, C) float32. through (B, R, N, C), dense."""
    c, live, head = find_channels(size_c, heads, BLOCK)
    q, j = tl.program_id(0) % spans, tl.program_id(0) // spans
    plane = tl.program_id(2).to(tl.int64)
    b, r = plane // count, plane % count
    row = (r * heads + head) * size_n
    sum_C = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, span, TOKENS):
        token = q * span + first + tl.arange(0, TOKENS)
        inside = token < size_n
        mask = inside[:, None] & live[None, :]
        grad_NC = tl.load(through + (plane * size_n + token[:, None]) * size_c + c[None, :], mask=mask, other=0.0)
        grad_NC = grad_NC.to(tl.float32)
        if j < taps:
            other, there = neighbours(
                order, inverse, bounds, row, token, inside, j, 1, shift, size_n, size_x, size_y, size_z, kx, ky, kz,
                GRID, HAS_BOUNDS,
            )  # fmt: skip
            at = x + b * x_b + other[:, None] * x_n + c[None, :]
            grad_NC *= tl.load(at, mask=there[:, None] & live[None, :], other=0.0).to(tl.float32)
        sum_C += tl.sum(grad_NC, 0)
    at = (q.to(tl.int64) * tl.num_programs(2) + plane) * size_c + c
    tl.store(partial + at * taps + j, sum_C, mask=live & (j < taps))
    tl.store(partial_bias + at, sum_C, mask=live & (j == taps))
