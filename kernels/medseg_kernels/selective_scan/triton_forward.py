"""The selective scan forward on a GPU: one program = one sample, one block of channels, one segment of the sequence.

Tile legend: a state tile is (S, C): all S states of a channel lie in the registers of one lane, so the sum over states
costs no shuffle, and the recurrence over steps is serial. C channels of the block (BLOCK lanes, some masked), S scan state
(padded to a power of two), N tokens. rate = A * log2(e), write = B, read = C, skip = D.

Three kernels when the sequence is cut into segments: `local_kernel` (end state of each segment on its own),
`carry_kernel` (carries them through), `forward_kernel` (outputs); the last alone when one segment fills the chip. The decay
of a whole segment is exp(rate * sum of delta), so no products are accumulated. Offsets are 64-bit throughout.
"""

import triton
import triton.language as tl


@triton.jit
def softplus(x):
    """log(1 + exp(x)) without overflow; log1p(y) as log(1 + y) * y / ((1 + y) - 1), exact for small y."""
    y = tl.exp(-tl.abs(x))
    w = 1.0 + y
    tail = tl.where(w == 1.0, y, tl.log(w) * y / tl.where(w == 1.0, 1.0, w - 1.0))
    return tl.maximum(x, 0.0) + tail


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


@triton.jit
def find_token(order, n1, n2, s0, s1, s2, size_n, t, CLOSED: tl.constexpr, SNAKE: tl.constexpr, REVERSED: tl.constexpr):
    """Token of step t: integer arithmetic for raster-like orders (traversals.ClosedForm), one load for the others."""
    if CLOSED:
        step = t
        if REVERSED:
            step = size_n - 1 - t
        k = step % n2
        row = step // n2
        j = row % n1
        i = row // n1
        if SNAKE:
            j = tl.where(i % 2 == 1, n1 - 1 - j, j)
            k = tl.where((i + j) % 2 == 1, n2 - 1 - k, k)
        return i.to(tl.int64) * s0 + j * s1 + k * s2
    else:
        return tl.load(order + t).to(tl.int64)


@triton.jit
def load_block(table, BLOCK: tl.constexpr):
    """First channel, lanes and their mask, head, group of write, group of read of this program's block."""
    row = table + tl.program_id(0) * 5
    first = tl.load(row)
    lane = tl.arange(0, BLOCK)
    return first + lane, lane < tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)


@triton.jit
def load_step(u, delta, u_n, delta_n, bias, c, live, token, SOFTPLUS: tl.constexpr):
    """u, raw delta (bias added) and delta of one token, float32 (C,)."""
    x = tl.load(u + token * u_n + c, mask=live, other=0.0).to(tl.float32)
    raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0).to(tl.float32) + bias
    step = raw
    if SOFTPLUS:
        step = softplus(raw)
    return x, raw, step


@triton.jit
def load_row(pointer, c, live, HAS: tl.constexpr, BLOCK: tl.constexpr):
    """A per-channel parameter, zero when absent."""
    if HAS:
        return tl.load(pointer + c, mask=live, other=0.0).to(tl.float32)
    else:
        return tl.zeros((BLOCK,), tl.float32)


@triton.jit
def load_state(pointer, b, c, live, s, size_c, size_s, HAS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr):
    """(S, C) tile of a contiguous (B, C, S) tensor, zero when absent."""
    if HAS:
        at = (b * size_c + c)[None, :] * size_s + s[:, None]
        return tl.load(pointer + at, mask=live[None, :] & (s < size_s)[:, None], other=0.0)
    else:
        return tl.zeros((STATE, BLOCK), tl.float32)


@triton.jit
def local_kernel(
    u, delta, rate, write, bias, start, order, begins, table, ends, sums,
    u_b, u_n, delta_b, delta_n, write_b, write_n, write_g, n1, n2, s0, s1, s2, size_n, size_c, size_s, span,
    HAS_BIAS: tl.constexpr, HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CLOSED: tl.constexpr, SNAKE: tl.constexpr, REVERSED: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """End state of each segment from a zero state -> ends (B, Q, S, C); sum of its delta -> sums (B, Q, C)."""
    c, live, head, gw, _group_r = load_block(table, BLOCK)
    q, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    s = tl.arange(0, STATE)
    real = (s < size_s)[:, None] & live[None, :]
    rate_SC = tl.load(rate + c[None, :] * size_s + s[:, None], mask=real, other=0.0) * 1.4426950408889634
    start_SC = load_state(start, b, c, live, s, size_c, size_s, HAS_START, BLOCK, STATE)
    bias_C = load_row(bias, c, live, HAS_BIAS, BLOCK)
    u += b * u_b
    delta += b * delta_b
    write += b * write_b + gw.to(tl.int64) * write_g
    order += head.to(tl.int64) * size_n
    begins += head.to(tl.int64) * size_n
    state_SC = tl.zeros((STATE, BLOCK), tl.float32)
    sum_C = tl.zeros((BLOCK,), tl.float32)
    begin = q * span
    for i in range(0, min(begin + span, size_n) - begin):
        t = begin + i
        token = find_token(order, n1, n2, s0, s1, s2, size_n, t, CLOSED, SNAKE, REVERSED)
        x, _raw, step = load_step(u, delta, u_n, delta_n, bias_C, c, live, token, SOFTPLUS)
        write_S = tl.load(write + token * write_n + s, mask=s < size_s, other=0.0).to(tl.float32)
        if HAS_BEGINS:
            state_SC = tl.where(tl.load(begins + t) != 0, start_SC, state_SC)
        state_SC = tl.exp2(step[None, :] * rate_SC) * state_SC + (step * x)[None, :] * write_S[:, None]
        sum_C += step
    segment = b * tl.num_programs(1) + q
    tl.store(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], state_SC, mask=real)
    tl.store(sums + segment * size_c + c, sum_C, mask=live)


@triton.jit
def carry_kernel(
    rate, start, opens, table, ends, sums, last, size_c, size_s, count, last_b,
    HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Turns what each segment yields on its own into what each segment starts from, in place; last = what remains.

    Forward: states from `start` on. BACKWARD: adjoints from `start` (the last state's gradient) on, from the last segment.
    opens (H, Q) uint8: 0 where a piece begins inside a segment, so that nothing passes through it.
    """
    c, live, head, _group_w, _group_r = load_block(table, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    s = tl.arange(0, STATE)
    real = (s < size_s)[:, None] & live[None, :]
    rate_SC = tl.load(rate + c[None, :] * size_s + s[:, None], mask=real, other=0.0) * 1.4426950408889634
    state_SC = load_state(start, b, c, live, s, size_c, size_s, HAS_START, BLOCK, STATE)
    for i in range(0, count):
        q = i
        if BACKWARD:
            q = count - 1 - i
        segment = b * count + q
        at = ends + (segment * size_s + s[:, None]) * size_c + c[None, :]
        own_SC = tl.load(at, mask=real, other=0.0)
        fade_SC = tl.exp2(tl.load(sums + segment * size_c + c, mask=live, other=0.0)[None, :] * rate_SC)
        if HAS_BEGINS:
            fade_SC = tl.where(tl.load(opens + head * count + q) != 0, fade_SC, 0.0)
        tl.store(at, state_SC, mask=real)
        state_SC = own_SC + fade_SC * state_SC
    if BACKWARD:
        tl.store(last + b * last_b + c[None, :] * size_s + s[:, None], state_SC, mask=real)


@triton.jit
def forward_kernel(
    u, delta, rate, write, read, skip, z, bias, factor, start, order, begins, table, ends, acc, out, kept, last,
    u_b, u_n, delta_b, delta_n, write_b, write_n, write_g, read_b, read_n, read_g, z_b, z_n, out_b, out_n, kept_b, last_b,
    n1, n2, s0, s1, s2, size_n, size_c, size_s, span, scale,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr,
    HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, HAS_ENDS: tl.constexpr, SAVE: tl.constexpr, ADD: tl.constexpr,
    FINAL: tl.constexpr, SOFTPLUS: tl.constexpr, CLOSED: tl.constexpr, SNAKE: tl.constexpr, REVERSED: tl.constexpr,
    BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Outputs of one traversal. acc (B, N, C) float32 holds the sum of earlier traversals (ADD); FINAL writes out, gated.

    SAVE keeps the state before every STEPS-th step.
    """
    c, live, head, gw, gr = load_block(table, BLOCK)
    q, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    s = tl.arange(0, STATE)
    real = (s < size_s)[:, None] & live[None, :]
    rate_SC = tl.load(rate + c[None, :] * size_s + s[:, None], mask=real, other=0.0) * 1.4426950408889634
    start_SC = load_state(start, b, c, live, s, size_c, size_s, HAS_START, BLOCK, STATE)
    bias_C = load_row(bias, c, live, HAS_BIAS, BLOCK)
    skip_C = load_row(skip, c, live, HAS_SKIP, BLOCK)
    factor_C = load_row(factor, c, live, HAS_FACTOR, BLOCK)
    u += b * u_b
    delta += b * delta_b
    write += b * write_b + gw.to(tl.int64) * write_g
    read += b * read_b + gr.to(tl.int64) * read_g
    order += head.to(tl.int64) * size_n
    begins += head.to(tl.int64) * size_n
    state_SC = start_SC
    if HAS_ENDS:
        segment = b * tl.num_programs(1) + q
        state_SC = tl.load(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], mask=real, other=0.0)
    begin = q * span
    for i in range(0, min(begin + span, size_n) - begin):
        t = begin + i
        if SAVE:  # noqa: SIM102 - the first is decided when compiling, the second when running
            if t % STEPS == 0:
                at = kept + b * kept_b + ((t // STEPS).to(tl.int64) * size_s + s[:, None]) * size_c + c[None, :]
                tl.store(at, state_SC, mask=real)
        token = find_token(order, n1, n2, s0, s1, s2, size_n, t, CLOSED, SNAKE, REVERSED)
        x, _raw, step = load_step(u, delta, u_n, delta_n, bias_C, c, live, token, SOFTPLUS)
        write_S = tl.load(write + token * write_n + s, mask=s < size_s, other=0.0).to(tl.float32)
        read_S = tl.load(read + token * read_n + s, mask=s < size_s, other=0.0).to(tl.float32)
        if HAS_BEGINS:
            state_SC = tl.where(tl.load(begins + t) != 0, start_SC, state_SC)
        state_SC = tl.exp2(step[None, :] * rate_SC) * state_SC + (step * x)[None, :] * write_S[:, None]
        y = tl.sum(state_SC * read_S[:, None], 0) + skip_C * x
        if HAS_FACTOR:
            y *= factor_C
        else:
            y *= scale
        if ADD:
            y += tl.load(acc + (b * size_n + token) * size_c + c, mask=live, other=0.0)
        if FINAL:
            if HAS_Z:
                gate = tl.load(z + b * z_b + token * z_n + c, mask=live, other=0.0).to(tl.float32)
                y *= gate * sigmoid(gate)
            if out.dtype.element_ty == tl.float16:  # silu(z) y can pass what float16 holds; NaN stays NaN
                y = tl.where(y > 65504.0, 65504.0, tl.where(y < -65504.0, -65504.0, y))
            tl.store(out + b * out_b + token * out_n + c, y.to(out.dtype.element_ty), mask=live)
        else:
            tl.store(acc + (b * size_n + token) * size_c + c, y, mask=live)
    if q == tl.num_programs(1) - 1:
        tl.store(last + b * last_b + c[None, :] * size_s + s[:, None], state_SC, mask=real)
