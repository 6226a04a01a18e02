"""The selective scan backward on a GPU. Legend as in triton_forward.py; formulas in README.md.

Two kernels around `carry_kernel`: `adjoint_kernel` finds what each segment alone passes to the one before it;
`backward_kernel` then walks every segment from its end. States are not stored by the forward except one per STEPS steps:
a program runs STEPS steps forward again and leaves a state every second step in scratch memory, then goes back two steps at a
time with their states in registers, all that both read loaded together, one pair ahead of need where registers allow. No
atomics: every traversal and block of channels writes a part of its own, sums over steps one per segment, and `sum_kernel`
adds those up in a fixed order.
"""

import triton
import triton.language as tl

from .triton_forward import LOG2E, load_block, load_row, load_tile, place, sigmoid, step_of, token_at


@triton.jit
def through_gate(grad, gate, factor_C, scale, HAS_Z: tl.constexpr, HAS_FACTOR: tl.constexpr):
    """Gradient of y, from that of the output."""
    grad_y = grad
    if HAS_Z:
        grad_y *= gate * sigmoid(gate)
    if HAS_FACTOR:
        grad_y *= factor_C
    else:
        grad_y *= scale
    return grad_y


@triton.jit
def adjoint_kernel(
    delta, rate, read, z, bias, factor, order, begins, table, grad_out, ends, sums,
    delta_b, delta_r, delta_n, read_b, read_r, read_n, read_g, rate_r, bias_r, order_r, z_b, z_n, grad_b, grad_r, grad_n,
    count, size_n, size_c, size_s, span, scale,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """What each segment alone passes to the state before it -> ends (B, R, Q, S, C); sum of its delta -> sums (B, R, Q, C)."""
    c, live, head, _group_w, gr = load_block(table, BLOCK)
    q, b, r, plane = place(count)
    s = tl.arange(0, STATE)
    states = s < size_s
    real = states[:, None] & live[None, :]
    rate_SC = load_tile(rate + r * rate_r, c, s, real, size_c, True, BLOCK, STATE) * LOG2E
    bias_C = load_row(bias + r * bias_r, c, live, HAS_BIAS, BLOCK)
    factor_C = load_row(factor + r * size_c, c, live, HAS_FACTOR, BLOCK)
    delta += b * delta_b + r * delta_r
    read += b * read_b + r * read_r + gr.to(tl.int64) * read_g
    order += r * order_r + head.to(tl.int64) * size_n
    begins += r * order_r + head.to(tl.int64) * size_n
    z += b * z_b
    grad_out += b * grad_b + r * grad_r
    carry_SC = tl.zeros((STATE, BLOCK), tl.float32)
    sum_C = tl.zeros((BLOCK,), tl.float32)
    begin = q * span
    stop = min(begin + span, size_n)
    token = token_at(order, stop - 1)
    after = token_at(order, max(stop - 2, begin))
    raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0)
    read_S = tl.load(read + token * read_n + s, mask=states, other=0.0)
    grad = tl.load(grad_out + token * grad_n + c, mask=live, other=0.0)
    gate = grad
    if HAS_Z:
        gate = tl.load(z + token * z_n + c, mask=live, other=0.0)
    for i in range(0, stop - begin):
        t = stop - 1 - i
        later = token_at(order, max(t - 2, begin))
        next_raw = tl.load(delta + after * delta_n + c, mask=live, other=0.0)
        next_read = tl.load(read + after * read_n + s, mask=states, other=0.0)
        next_grad = tl.load(grad_out + after * grad_n + c, mask=live, other=0.0)
        next_gate = next_grad
        if HAS_Z:
            next_gate = tl.load(z + after * z_n + c, mask=live, other=0.0)
        step = step_of(raw, bias_C, SOFTPLUS)
        grad_y = through_gate(grad.to(tl.float32), gate.to(tl.float32), factor_C, scale, HAS_Z, HAS_FACTOR)
        whole_SC = carry_SC + grad_y[None, :] * read_S.to(tl.float32)[:, None]
        carry_SC = tl.exp2(step[None, :] * rate_SC) * whole_SC
        if HAS_BEGINS:
            carry_SC = tl.where(tl.load(begins + t) != 0, 0.0, carry_SC)
        sum_C += step
        raw, read_S, grad, gate, after = next_raw, next_read, next_grad, next_gate, later
    segment = plane * tl.num_programs(1) + q
    tl.store(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], carry_SC, mask=real)
    tl.store(sums + segment * size_c + c, sum_C, mask=live)


@triton.jit
def enter(state_SC, start_SC, begins, t, inside, HAS_BEGINS: tl.constexpr):
    """The state that enters step t: the one before it, or the initial one where a piece begins."""
    if HAS_BEGINS:
        state_SC = tl.where(tl.load(begins + t, mask=inside, other=0) != 0, start_SC, state_SC)
    return state_SC


@triton.jit
def load_token(
    u, delta, write, read, grad_out, z, u_n, delta_n, write_n, read_n, grad_n, z_n, token, c, live, s, states,
    HAS_Z: tl.constexpr,
):  # fmt: skip
    """All that going back one step reads, in its own dtype."""
    x = tl.load(u + token * u_n + c, mask=live, other=0.0)
    raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0)
    write_S = tl.load(write + token * write_n + s, mask=states, other=0.0)
    read_S = tl.load(read + token * read_n + s, mask=states, other=0.0)
    grad = tl.load(grad_out + token * grad_n + c, mask=live, other=0.0)
    gate = grad
    if HAS_Z:
        gate = tl.load(z + token * z_n + c, mask=live, other=0.0)
    return x, raw, write_S, read_S, grad, gate


@triton.jit
def retreat(
    before_SC, carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor,
    x, biased, step, write_S, read_S, grad, gate, skip_C, factor_C, rate_SC, grad_u, grad_delta, grad_z, grad_write, grad_read,
    begins, token, t, inside, scale, c, live, s, states, size_c, groups_w, groups_r, size_s,
    HAS_Z: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """One step backward: stores the gradients of its token and returns what is carried on and summed up.

    A step beyond the end (not inside) comes with step = 0 and grad = 0, which leave all of that as it is.
    """
    lanes = live & inside
    grad_y = through_gate(grad, gate, factor_C, scale, HAS_Z, HAS_FACTOR)
    drive = step * x
    decay_SC = tl.exp2(step[None, :] * rate_SC)
    state_SC = decay_SC * before_SC + drive[None, :] * write_S[:, None]
    adjoint_SC = carry_SC + grad_y[None, :] * read_S[:, None]
    back_SC = adjoint_SC * decay_SC
    faded_SC = back_SC * before_SC
    into = tl.sum(adjoint_SC * write_S[:, None], 0)
    grad_raw = x * into + tl.sum(faded_SC * rate_SC, 0) * 0.6931471805599453  # rate_SC carries log2(e)
    if SOFTPLUS:
        grad_raw *= sigmoid(biased)
    row = token * size_c + c
    tl.store(grad_u + row, (step * into + skip_C * grad_y).to(grad_u.dtype.element_ty), mask=lanes)
    tl.store(grad_delta + row, grad_raw.to(grad_delta.dtype.element_ty), mask=lanes)
    there = states & inside
    tl.store(grad_write + token * groups_w * size_s + s, tl.sum(adjoint_SC * drive[None, :], 1), mask=there)
    tl.store(grad_read + token * groups_r * size_s + s, tl.sum(state_SC * grad_y[None, :], 1), mask=there)
    y = grad * 0.0
    if HAS_Z or HAS_FACTOR:
        y = tl.sum(state_SC * read_S[:, None], 0) + skip_C * x
    gated = grad
    if HAS_Z:
        half = sigmoid(gate)
        grad_gate = grad * half * (1.0 + gate * (1.0 - half)) * y
        if HAS_FACTOR:
            grad_gate *= factor_C
        else:
            grad_gate *= scale
        tl.store(grad_z + row, grad_gate.to(grad_z.dtype.element_ty), mask=lanes)
        gated *= gate * half
    to_rate_SC += faded_SC * step[None, :]
    to_skip += grad_y * x
    to_bias += tl.where(lanes, grad_raw, 0.0)
    to_factor += gated * y
    carry = back_SC
    if HAS_BEGINS:
        begin = (tl.load(begins + t, mask=inside, other=0) != 0) & inside
        to_start_SC += tl.where(begin, back_SC, 0.0)
        carry = tl.where(begin, 0.0, carry)
    return carry, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor


@triton.jit
def backward_kernel(
    u, delta, rate, write, read, skip, z, bias, factor, start, order, begins, table, kept, grad_out, starts, scratch,
    grad_u, grad_delta, grad_z, grad_write, grad_read, grad_rate, grad_start, grad_rows,
    u_b, u_r, u_n, delta_b, delta_r, delta_n, write_b, write_r, write_n, write_g, read_b, read_r, read_n, read_g, rate_r,
    skip_r, bias_r, order_r, z_b, z_n, grad_b, grad_r, grad_n, grad_u_b, grad_u_r, grad_delta_b, grad_delta_r, grad_z_r,
    grad_write_k, grad_write_b, grad_write_r, grad_read_k, grad_read_b, grad_read_r, groups_w, groups_r,
    count, size_n, size_c, size_s, span, checkpoints, scale,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_START: tl.constexpr,
    HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """All gradients of one segment, from its end, given the adjoint that reaches it (starts).

    grad_write, grad_read float32: a part per block of channels, and per traversal where those share the tensor. grad_rate,
    grad_start (R, B, Q, S, C) and grad_rows (3, R, B, Q, C: skip, bias, factor): a part per segment.
    """
    c, live, head, gw, gr = load_block(table, BLOCK)
    q, b, r, plane = place(count)
    block, segments, batch = tl.program_id(0).to(tl.int64), tl.num_programs(1), tl.num_programs(2) // count
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
    z += b * z_b
    grad_out += b * grad_b + r * grad_r
    write += b * write_b + r * write_r + gw.to(tl.int64) * write_g
    read += b * read_b + r * read_r + gr.to(tl.int64) * read_g
    order += r * order_r + head.to(tl.int64) * size_n
    begins += r * order_r + head.to(tl.int64) * size_n
    grad_u += b * grad_u_b + r * grad_u_r
    grad_delta += b * grad_delta_b + r * grad_delta_r
    grad_z += b * size_n * size_c + r * grad_z_r
    grad_write += block * grad_write_k + b * grad_write_b + r * grad_write_r + gw * size_s
    grad_read += block * grad_read_k + b * grad_read_b + r * grad_read_r + gr * size_s
    scratch += ((block * tl.num_programs(2) + plane) * segments + q) * (STEPS // 2) * STATE * BLOCK
    kept += plane * checkpoints * size_s * size_c
    tile = s[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    carry_SC = load_tile(starts + (plane * segments + q) * size_s * size_c, c, s, real, size_c, True, BLOCK, STATE)
    to_rate_SC = tl.zeros((STATE, BLOCK), tl.float32)
    to_start_SC = tl.zeros((STATE, BLOCK), tl.float32)
    to_skip, to_bias = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    to_factor = tl.zeros((BLOCK,), tl.float32)
    stop = min(q * span + span, size_n)
    chunks = (stop - q * span + STEPS - 1) // STEPS
    for back in range(0, chunks):
        first = q * span + (chunks - 1 - back) * STEPS
        state_SC = load_tile(
            kept + tl.cast(first // STEPS, tl.int64) * size_s * size_c, c, s, real, size_c, True, BLOCK, STATE
        )
        end = min(first + STEPS, stop)
        pairs = (end - first + 1) // 2
        token = token_at(order, first)
        after = token_at(order, min(first + 1, end - 1))
        x = tl.load(u + token * u_n + c, mask=live, other=0.0)
        raw = tl.load(delta + token * delta_n + c, mask=live, other=0.0)
        write_S = tl.load(write + token * write_n + s, mask=states, other=0.0)
        for i in range(0, end - first):
            later = token_at(order, min(first + i + 2, end - 1))
            next_x = tl.load(u + after * u_n + c, mask=live, other=0.0)
            next_raw = tl.load(delta + after * delta_n + c, mask=live, other=0.0)
            next_write = tl.load(write + after * write_n + s, mask=states, other=0.0)
            if i % 2 == 0:
                tl.store(scratch + (i // 2) * (STATE * BLOCK) + tile, state_SC)
            step = step_of(raw, bias_C, SOFTPLUS)
            drive = step * x.to(tl.float32)
            before_SC = enter(state_SC, start_SC, begins, first + i, True, HAS_BEGINS)
            state_SC = tl.exp2(step[None, :] * rate_SC) * before_SC + drive[None, :] * write_S.to(tl.float32)[:, None]
            x, raw, write_S, after = next_x, next_raw, next_write, later
        tl.debug_barrier()
        t = first + (pairs - 1) * 2
        token0, token1 = token_at(order, t), token_at(order, min(t + 1, end - 1))
        after0, after1 = token_at(order, max(t - 2, first)), token_at(order, max(t - 1, first))
        x0, raw0, write0, read0, grad0, gate0 = load_token(
            u, delta, write, read, grad_out, z, u_n, delta_n, write_n, read_n, grad_n, z_n, token0, c, live, s, states,
            HAS_Z,
        )  # fmt: skip
        x1, raw1, write1, read1, grad1, gate1 = load_token(
            u, delta, write, read, grad_out, z, u_n, delta_n, write_n, read_n, grad_n, z_n, token1, c, live, s, states,
            HAS_Z,
        )  # fmt: skip
        for j in range(0, pairs):
            t = first + (pairs - 1 - j) * 2
            enter0 = tl.load(scratch + (pairs - 1 - j) * (STATE * BLOCK) + tile)
            later0, later1 = token_at(order, max(t - 4, first)), token_at(order, max(t - 3, first))
            next_x0, next_raw0, next_write0, next_read0, next_grad0, next_gate0 = load_token(
                u, delta, write, read, grad_out, z, u_n, delta_n, write_n, read_n, grad_n, z_n, after0, c, live, s, states,
                HAS_Z,
            )  # fmt: skip
            next_x1, next_raw1, next_write1, next_read1, next_grad1, next_gate1 = load_token(
                u, delta, write, read, grad_out, z, u_n, delta_n, write_n, read_n, grad_n, z_n, after1, c, live, s, states,
                HAS_Z,
            )  # fmt: skip
            inside1 = t + 1 < end
            biased0, biased1 = raw0.to(tl.float32) + bias_C, raw1.to(tl.float32) + bias_C
            step0, step1 = step_of(raw0, bias_C, SOFTPLUS), tl.where(inside1, step_of(raw1, bias_C, SOFTPLUS), 0.0)
            wide_x0, wide_write0 = x0.to(tl.float32), write0.to(tl.float32)
            before0 = enter(enter0, start_SC, begins, t, True, HAS_BEGINS)
            drive0 = step0 * wide_x0
            middle = tl.exp2(step0[None, :] * rate_SC) * before0 + drive0[None, :] * wide_write0[:, None]
            before1 = enter(middle, start_SC, begins, t + 1, inside1, HAS_BEGINS)
            carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor = retreat(
                before1, carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor,
                x1.to(tl.float32), biased1, step1, write1.to(tl.float32), read1.to(tl.float32),
                tl.where(inside1, grad1.to(tl.float32), 0.0), gate1.to(tl.float32), skip_C, factor_C, rate_SC, grad_u,
                grad_delta, grad_z, grad_write, grad_read, begins, token1, t + 1, inside1, scale, c, live, s, states, size_c,
                groups_w, groups_r, size_s, HAS_Z, HAS_FACTOR, HAS_BEGINS, SOFTPLUS,
            )  # fmt: skip
            carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor = retreat(
                before0, carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor,
                wide_x0, biased0, step0, wide_write0, read0.to(tl.float32), grad0.to(tl.float32), gate0.to(tl.float32), skip_C,
                factor_C, rate_SC, grad_u, grad_delta, grad_z, grad_write, grad_read, begins, token0, t, True, scale, c, live,
                s, states, size_c, groups_w, groups_r, size_s, HAS_Z, HAS_FACTOR, HAS_BEGINS, SOFTPLUS,
            )  # fmt: skip
            x0, raw0, write0, read0, grad0, gate0 = next_x0, next_raw0, next_write0, next_read0, next_grad0, next_gate0
            x1, raw1, write1, read1, grad1, gate1 = next_x1, next_raw1, next_write1, next_read1, next_grad1, next_gate1
            token0, token1, after0, after1 = after0, after1, later0, later1
    segment = (r * batch + b) * segments + q
    at = (segment * size_s + s[:, None]) * size_c + c[None, :]
    tl.store(grad_rate + at, to_rate_SC, mask=real)
    if HAS_BEGINS:
        tl.store(grad_start + at, to_start_SC, mask=real)
    row = segment * size_c + c
    part = tl.num_programs(2).to(tl.int64) * segments * size_c
    tl.store(grad_rows + row, to_skip, mask=live)
    tl.store(grad_rows + part + row, to_bias, mask=live)
    tl.store(grad_rows + 2 * part + row, to_factor, mask=live)
