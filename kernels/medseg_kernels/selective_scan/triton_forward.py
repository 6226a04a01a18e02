"""The selective scan forward on a GPU: one program = one sample and traversal, one block of channels, one segment of the sequence.

Tile legend: a state tile is (S, C): all S states of a channel lie in the registers of one lane, so the sum over states
costs no shuffle, and the recurrence over steps is serial. C channels of the block (BLOCK lanes, some masked), S scan state
(padded to a power of two), N tokens, R traversals. rate = A (R', S, C), write = B, read = C, skip = D.

When the sequence is cut into segments: `local_kernel` (end state of each segment on its own), `carry_kernel` (carries them
through), `forward_kernel` (outputs); the last alone when one segment fills the chip. The decay of a whole segment is
exp(rate * sum of delta), so no products are accumulated. What a step reads is loaded while the step before is computed, its
token's number one step earlier: nothing else hides the latency of memory in a serial loop. Traversals that share an output
write a part each, which `merge_kernel` sums in a fixed order and gates. Offsets are 64-bit throughout.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


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
def place(count):
    """Segment, sample, traversal of this program (64-bit), and plane = sample * R + traversal."""
    plane = tl.program_id(2).to(tl.int64)
    return tl.program_id(1), plane // count, plane % count, plane


@triton.jit
def load_block(table, BLOCK: tl.constexpr):
    """First channel, lanes and their mask, head, group of write, group of read of this program's block."""
    row = table + tl.program_id(0) * 5
    first = tl.load(row)
    lane = tl.arange(0, BLOCK)
    return first + lane, lane < tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)


@triton.jit
def step_of(raw, bias, SOFTPLUS: tl.constexpr):
    """delta of one token from what is stored."""
    step = raw.to(tl.float32) + bias
    if SOFTPLUS:
        step = softplus(step)
    return step


@triton.jit
def load_row(pointer, c, live, HAS: tl.constexpr, BLOCK: tl.constexpr):
    """A per-channel parameter, zero when absent."""
    if HAS:
        return tl.load(pointer + c, mask=live, other=0.0).to(tl.float32)
    else:
        return tl.zeros((BLOCK,), tl.float32)


@triton.jit
def load_tile(pointer, c, s, real, size_c, HAS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr):
    """(S, C) tile of a tensor whose last axes are S, C, zero when absent."""
    if HAS:
        return tl.load(pointer + s[:, None] * size_c + c[None, :], mask=real, other=0.0)
    else:
        return tl.zeros((STATE, BLOCK), tl.float32)


@triton.jit
def token_at(order, t):
    """Token of a step."""
    return tl.load(order + t).to(tl.int64)


@triton.jit
def local_kernel(
    u, delta, rate, write, bias, start, order, begins, table, ends, sums,
    u_b, u_r, u_n, delta_b, delta_r, delta_n, write_b, write_r, write_n, write_g, rate_r, bias_r, order_r,
    count, size_n, size_c, size_s, span,
    HAS_BIAS: tl.constexpr, HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """End state of each segment from a zero state -> ends (B, R, Q, S, C); sum of its delta -> sums (B, R, Q, C)."""
    c, live, head, gw, _group_r = load_block(table, BLOCK)
    q, b, r, plane = place(count)
    s = tl.arange(0, STATE)
    states = s < size_s
    real = states[:, None] & live[None, :]
    rate_SC = load_tile(rate + r * rate_r, c, s, real, size_c, True, BLOCK, STATE) * LOG2E
    start_SC = load_tile(start + plane * size_s * size_c, c, s, real, size_c, HAS_START, BLOCK, STATE)
    bias_C = load_row(bias + r * bias_r, c, live, HAS_BIAS, BLOCK)
    u += b * u_b + r * u_r
    delta += b * delta_b + r * delta_r
    write += b * write_b + r * write_r + gw.to(tl.int64) * write_g
    order += r * order_r + head.to(tl.int64) * size_n
    begins += r * order_r + head.to(tl.int64) * size_n
    state_SC = tl.zeros((STATE, BLOCK), tl.float32)
    sum_C = tl.zeros((BLOCK,), tl.float32)
    begin = q * span
    stop = min(begin + span, size_n)
    token = token_at(order, begin)
    after = token_at(order, min(begin + 1, stop - 1))
    x = tl.load(u + token * u_n + c, mask=live, other=0.0)
    raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0)
    write_S = tl.load(write + token * write_n + s, mask=states, other=0.0)
    for t in range(begin, stop):
        later = token_at(order, min(t + 2, stop - 1))
        next_x = tl.load(u + after * u_n + c, mask=live, other=0.0)
        next_raw = tl.load(delta + after * delta_n + c, mask=live, other=0.0)
        next_write = tl.load(write + after * write_n + s, mask=states, other=0.0)
        step = step_of(raw, bias_C, SOFTPLUS)
        drive = step * x.to(tl.float32)
        if HAS_BEGINS:
            state_SC = tl.where(tl.load(begins + t) != 0, start_SC, state_SC)
        state_SC = tl.exp2(step[None, :] * rate_SC) * state_SC + drive[None, :] * write_S.to(tl.float32)[:, None]
        sum_C += step
        x, raw, write_S, after = next_x, next_raw, next_write, later
    segment = plane * tl.num_programs(1) + q
    tl.store(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], state_SC, mask=real)
    tl.store(sums + segment * size_c + c, sum_C, mask=live)


@triton.jit
def load_carry(ends, sums, opens, rate, q, count, width, size_c, e, c, inside, HAS_BEGINS: tl.constexpr):
    """What segment q yields on its own, and how much of what it starts from is left at its end."""
    there = (q >= 0) & (q < count)
    wide = tl.cast(q, tl.int64)
    own = tl.load(ends + wide * width + e, mask=inside & there, other=0.0)
    total = tl.load(sums + wide * size_c + c, mask=inside & there, other=0.0)
    fade = tl.exp2(total * rate)
    if HAS_BEGINS:
        fade = tl.where(tl.load(opens + q, mask=inside & there, other=0) != 0, fade, 0.0)
    return own, fade


@triton.jit
def carry_kernel(
    rate, start, opens, ends, sums, starts, last, rate_r, count_r, size_c, size_s, count, heads,
    HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From what each segment yields on its own (ends) to what each starts from (starts); last = what remains (BACKWARD).

    Forward: states from `start` on. BACKWARD: adjoints from `start` (the last state's gradient) on, from the last segment.
    start and last are (B, R, S, C). opens (R, H, Q) uint8: 0 where a piece begins inside a segment, so that nothing passes
    through it. States and channels are independent: one per lane, four segments loaded ahead.
    """
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    plane = tl.program_id(1).to(tl.int64)
    r = plane % count_r
    width = size_s * size_c
    inside = e < width
    c = e % size_c
    fast = tl.load(rate + r * rate_r + e, mask=inside, other=0.0) * LOG2E
    ends += plane * count * width
    starts += plane * count * width
    sums += plane * count * size_c
    opens += (r * heads + (c * heads) // size_c) * count
    state = tl.zeros((BLOCK,), tl.float32)
    if HAS_START:
        state += tl.load(start + plane * width + e, mask=inside, other=0.0)
    sign = 1
    first = tl.program_id(0) * 0
    if BACKWARD:
        sign = -1
        first = first + count - 1
    own0, fade0 = load_carry(ends, sums, opens, fast, first, count, width, size_c, e, c, inside, HAS_BEGINS)
    own1, fade1 = load_carry(ends, sums, opens, fast, first + sign, count, width, size_c, e, c, inside, HAS_BEGINS)
    own2, fade2 = load_carry(ends, sums, opens, fast, first + 2 * sign, count, width, size_c, e, c, inside, HAS_BEGINS)
    own3, fade3 = load_carry(ends, sums, opens, fast, first + 3 * sign, count, width, size_c, e, c, inside, HAS_BEGINS)
    for i in range(0, count, 4):
        q = first + i * sign
        n = q + 4 * sign
        next0, weak0 = load_carry(ends, sums, opens, fast, n, count, width, size_c, e, c, inside, HAS_BEGINS)
        next1, weak1 = load_carry(ends, sums, opens, fast, n + sign, count, width, size_c, e, c, inside, HAS_BEGINS)
        next2, weak2 = load_carry(ends, sums, opens, fast, n + 2 * sign, count, width, size_c, e, c, inside, HAS_BEGINS)
        next3, weak3 = load_carry(ends, sums, opens, fast, n + 3 * sign, count, width, size_c, e, c, inside, HAS_BEGINS)
        at = starts + tl.cast(q, tl.int64) * width + e
        turn = sign * width
        tl.store(at, state, mask=inside)
        state = own0 + fade0 * state
        tl.store(at + turn, state, mask=inside & (i + 1 < count))
        state = tl.where(i + 1 < count, own1 + fade1 * state, state)
        tl.store(at + 2 * turn, state, mask=inside & (i + 2 < count))
        state = tl.where(i + 2 < count, own2 + fade2 * state, state)
        tl.store(at + 3 * turn, state, mask=inside & (i + 3 < count))
        state = tl.where(i + 3 < count, own3 + fade3 * state, state)
        own0, own1, own2, own3 = next0, next1, next2, next3
        fade0, fade1, fade2, fade3 = weak0, weak1, weak2, weak3
    if BACKWARD:
        tl.store(last + plane * width + e, state, mask=inside)


@triton.jit
def forward_kernel(
    u, delta, rate, write, read, skip, z, bias, factor, start, order, begins, table, starts, out, kept, last,
    u_b, u_r, u_n, delta_b, delta_r, delta_n, write_b, write_r, write_n, write_g, read_b, read_r, read_n, read_g, rate_r,
    skip_r, bias_r, order_r, z_b, z_n, out_b, out_r, out_n, count, size_n, size_c, size_s, span, checkpoints, scale,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr,
    HAS_START: tl.constexpr, HAS_BEGINS: tl.constexpr, HAS_ENDS: tl.constexpr, SAVE: tl.constexpr, SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Outputs of all traversals, each to its own part of out: gated (HAS_Z) where nothing is left to be merged.

    SAVE keeps the state before every STEPS-th step in kept (B, R, K, S, C). last (B, R, C, S).
    """
    c, live, head, gw, gr = load_block(table, BLOCK)
    q, b, r, plane = place(count)
    s = tl.arange(0, STATE)
    states = s < size_s
    real = states[:, None] & live[None, :]
    rate_SC = load_tile(rate + r * rate_r, c, s, real, size_c, True, BLOCK, STATE) * LOG2E
    start_SC = load_tile(start + plane * size_s * size_c, c, s, real, size_c, HAS_START, BLOCK, STATE)
    bias_C = load_row(bias + r * bias_r, c, live, HAS_BIAS, BLOCK)
    skip_C = load_row(skip + r * skip_r, c, live, HAS_SKIP, BLOCK)
    factor_C = load_row(factor + r * size_c, c, live, HAS_FACTOR, BLOCK)
    u += b * u_b + r * u_r
    delta += b * delta_b + r * delta_r
    write += b * write_b + r * write_r + gw.to(tl.int64) * write_g
    read += b * read_b + r * read_r + gr.to(tl.int64) * read_g
    order += r * order_r + head.to(tl.int64) * size_n
    begins += r * order_r + head.to(tl.int64) * size_n
    z += b * z_b
    out += b * out_b + r * out_r
    state_SC = start_SC
    if HAS_ENDS:
        segment = plane * tl.num_programs(1) + q
        state_SC = load_tile(starts + segment * size_s * size_c, c, s, real, size_c, True, BLOCK, STATE)
    kept += plane * checkpoints * size_s * size_c
    begin = q * span
    stop = min(begin + span, size_n)
    token = token_at(order, begin)
    after = token_at(order, min(begin + 1, stop - 1))
    x = tl.load(u + token * u_n + c, mask=live, other=0.0)
    raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0)
    write_S = tl.load(write + token * write_n + s, mask=states, other=0.0)
    read_S = tl.load(read + token * read_n + s, mask=states, other=0.0)
    gate = x
    if HAS_Z:
        gate = tl.load(z + token * z_n + c, mask=live, other=0.0)
    for first in range(begin, stop, STEPS):
        if SAVE:
            at = kept + tl.cast(first // STEPS, tl.int64) * size_s * size_c + s[:, None] * size_c + c[None, :]
            tl.store(at, state_SC, mask=real)
        for t in range(first, min(first + STEPS, stop)):
            later = token_at(order, min(t + 2, stop - 1))
            next_x = tl.load(u + after * u_n + c, mask=live, other=0.0)
            next_raw = tl.load(delta + after * delta_n + c, mask=live, other=0.0)
            next_write = tl.load(write + after * write_n + s, mask=states, other=0.0)
            next_read = tl.load(read + after * read_n + s, mask=states, other=0.0)
            next_gate = next_x
            if HAS_Z:
                next_gate = tl.load(z + after * z_n + c, mask=live, other=0.0)
            wide_x = x.to(tl.float32)
            step = step_of(raw, bias_C, SOFTPLUS)
            drive = step * wide_x
            if HAS_BEGINS:
                state_SC = tl.where(tl.load(begins + t) != 0, start_SC, state_SC)
            state_SC = tl.exp2(step[None, :] * rate_SC) * state_SC + drive[None, :] * write_S.to(tl.float32)[:, None]
            y = tl.sum(state_SC * read_S.to(tl.float32)[:, None], 0) + skip_C * wide_x
            if HAS_FACTOR:
                y *= factor_C
            else:
                y *= scale
            if HAS_Z:
                wide_gate = gate.to(tl.float32)
                y *= wide_gate * sigmoid(wide_gate)
            tl.store(out + token * out_n + c, narrow(y, out.dtype.element_ty), mask=live)
            x, raw, write_S, read_S, gate = next_x, next_raw, next_write, next_read, next_gate
            token, after = after, later
    if q == tl.num_programs(1) - 1:
        tl.store(last + plane * size_c * size_s + c[None, :] * size_s + s[:, None], state_SC, mask=real)


@triton.jit
def narrow(y, KIND: tl.constexpr):
    """y in another dtype; float16 stops at its largest number, which y silu(z) can pass, and keeps NaN."""
    if tl.float16 == KIND:
        y = tl.where(y > 65504.0, 65504.0, tl.where(y < -65504.0, -65504.0, y))
    return y.to(KIND)


@triton.jit
def merge_kernel(
    parts, z, out, part, z_b, z_n, size_n, size_c, count, HAS_Z: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out (B, N, C) = sum over traversals of parts (R, B, N, C), in their order, times silu(z)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < part
    y = tl.zeros((BLOCK,), tl.float32)
    for r in range(0, count):
        y += tl.load(parts + r * part + at, mask=inside, other=0.0)
    if HAS_Z:
        token, c = at // size_c, at % size_c
        gate = tl.load(z + token // size_n * z_b + token % size_n * z_n + c, mask=inside, other=0.0).to(tl.float32)
        y *= gate * sigmoid(gate)
    tl.store(out + at, narrow(y, out.dtype.element_ty), mask=inside)


@triton.jit
def sum_kernel(
    parts, out, count, inner, outer_stride, part_stride, width,
    FLIP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (outer, inner) = sum over parts, in a fixed order, in float32. FLIP: inner is (S, width) and out (width, S)."""
    outer = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    parts += outer * outer_stride
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, ROWS):
        p = first + tl.arange(0, ROWS)
        at = parts + p[:, None].to(tl.int64) * part_stride + i[None, :]
        total += tl.sum(tl.load(at, mask=(p < count)[:, None] & (i < inner)[None, :], other=0.0).to(tl.float32), 0)
    to = i
    if FLIP:
        to = i % width * (inner // width) + i // width
    tl.store(out + outer * inner + to, total.to(out.dtype.element_ty), mask=i < inner)
