"""Arithmetic of the kernels' operators and of attention on CPUs, for torch's FlopCounterMode, which cannot look inside them.

Two per multiply-add, forward pass. Recurrences and scans are counted in their step-by-step form, whatever form runs. Windows
that reach beyond the grid count as whole ones, masked pairs (causal, shifted, padding) as computed.
B batch, N tokens, C channels, H heads, E per-head channels, R traversals, S scan state, K V key and value channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

import medseg_kernels  # noqa: F401 - registers the operators named below

Shape = Sequence[int]


def window_attention(qkv: Shape, *rest: Any, out_shape: Sequence[Shape]) -> int:
    """Scores and weighted sums of every window: its tokens and carriers with themselves, or those within the radius."""
    window_size, radius = rest[8], rest[10]
    batch, windows, heads, tokens = out_shape[2]
    keys = tokens
    if max(radius) >= 0:  # one window that covers the grid; a token sees its neighbourhood
        sides = [min(w, n) for w, n in zip(window_size, qkv[1:4], strict=True)]
        keys = math.prod(n if r < 0 else min(n, 2 * r + 1) for n, r in zip(sides, radius, strict=True))
    return 4 * batch * windows * heads * tokens * keys * qkv[-1]


def full_attention(q: Shape, k: Shape, v: Shape, *rest: Any, **options: Any) -> int:
    """Scores and weighted sum of torch's attention; q (B, H, N, E)."""
    pairs = q[0] * q[1] * q[2] * k[2]
    return 2 * pairs * (q[3] + v[3])


def short_conv(x: Shape, weight: Shape, *rest: Any, **options: Any) -> int:
    """Taps (R, C, T) over tokens (B, N, C)."""
    return 2 * x[0] * x[1] * math.prod(weight)


def selective_scan(u: Shape, delta: Shape, rate: Shape, *rest: Any, out_shape: Sequence[Shape]) -> int:
    """Per token, channel and state: decay and write (a product each), new state and reading (a multiply-add each)."""
    return 6 * math.prod(out_shape[1]) * u[2]  # last states: (B, R, C, S)


def convolved_scan(u: Shape, taps: Shape, taps_bias: Any, project: Shape, expand: Shape, rate: Shape, *rest: Any,
                   out_shape: Sequence[Shape]) -> int:  # fmt: skip
    """Mamba's op: convolution, both projections and the scan."""
    batch, tokens, channels = u
    rows = max(taps[0], project[0])
    projections = 2 * batch * tokens * rows * channels * (project[1] + expand[2])
    scan = 6 * batch * out_shape[1][1] * tokens * channels * rate[2]  # kept states: (B, R, K, S, C)
    return short_conv(u, taps) + projections + scan


def linear_recurrence(q: Shape, k: Shape, v: Shape, g: Any, beta: Any, *rest: Any, **options: Any) -> int:
    """Per token and head, on a state of K x V: write and read, forgetting where gated, the old value where it is a delta rule."""
    delta = rest[5]
    per_state = 4 + (g is not None) + 2 * bool(delta)
    return per_state * math.prod(q[:3]) * q[3] * v[3]


COUNTS: dict[Any, Callable[..., int]] = {
    torch.ops.medseg.window_attention: window_attention,
    torch.ops.medseg.short_conv: short_conv,
    torch.ops.medseg.selective_scan: selective_scan,
    torch.ops.medseg.convolved_scan: convolved_scan,
    torch.ops.medseg.gated_linear_recurrence: linear_recurrence,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: full_attention,
}
