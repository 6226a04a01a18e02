"""The selective scan backward on a GPU. Legend as in triton_forward.py; formulas in README.md.

Two kernels around `carry_kernel`: `adjoint_kernel` finds what each segment alone passes to the one before it;
`backward_kernel` then walks every segment from its end. States are not stored by the forward except one per STEPS steps:
a program runs STEPS steps forward again and leaves a state every SUB steps in scratch memory (small enough for the L2
cache), then goes back SUB = 2 steps at a time with their states in registers. No atomics: sums over channels go to
a partial result per block, sums over steps to one per segment, and torch adds those up in a fixed order.
"""

import triton
import triton.language as tl

from .triton_forward import find_token, load_block, load_row, load_state, load_step, sigmoid


@triton.jit
def load_grad(grad_out, z, grad_n, z_n, factor_C, scale, c, live, token, HAS_Z: tl.constexpr, HAS_FACTOR: tl.constexpr):
    """Gradient of y through gate and merge, gradient of the output, and the gate, of one token (C,)."""
    through = tl.load(grad_out + token * grad_n + c, mask=live, other=0.0).to(tl.float32)
    gate = through * 0.0
    grad_y = through
    if HAS_Z:
        gate = tl.load(z + token * z_n + c, mask=live, other=0.0).to(tl.float32)
        grad_y *= gate * sigmoid(gate)
    if HAS_FACTOR:
        grad_y *= factor_C
    else:
        grad_y *= scale
    return grad_y, through, gate


@triton.jit
def adjoint_kernel(
    delta, rate, read, z, bias, factor, order, begins, table, grad_out, ends, sums,
    delta_b, delta_n, read_b, read_n, read_g, z_b, z_n, grad_b, grad_n, n1, n2, s0, s1, s2, size_n, size_c, size_s, span, scale,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CLOSED: tl.constexpr, SNAKE: tl.constexpr, REVERSED: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """What each segment alone passes to the state before it -> ends (B, Q, S, C); sum of its delta -> sums (B, Q, C)."""
    c, live, head, _group_w, gr = load_block(table, BLOCK)
    q, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    s = tl.arange(0, STATE)
    real = (s < size_s)[:, None] & live[None, :]
    rate_SC = tl.load(rate + c[None, :] * size_s + s[:, None], mask=real, other=0.0) * 1.4426950408889634
    bias_C = load_row(bias, c, live, HAS_BIAS, BLOCK)
    factor_C = load_row(factor, c, live, HAS_FACTOR, BLOCK)
    delta += b * delta_b
    read += b * read_b + gr.to(tl.int64) * read_g
    order += head.to(tl.int64) * size_n
    begins += head.to(tl.int64) * size_n
    carry_SC = tl.zeros((STATE, BLOCK), tl.float32)
    sum_C = tl.zeros((BLOCK,), tl.float32)
    stop = min(q * span + span, size_n)
    for i in range(0, stop - q * span):
        t = stop - 1 - i
        token = find_token(order, n1, n2, s0, s1, s2, size_n, t, CLOSED, SNAKE, REVERSED)
        _twin, _raw, step = load_step(delta, delta, delta_n, delta_n, bias_C, c, live, token, SOFTPLUS)
        read_S = tl.load(read + token * read_n + s, mask=s < size_s, other=0.0).to(tl.float32)
        grad_y, _through, _gate = load_grad(
            grad_out + b * grad_b, z + b * z_b, grad_n, z_n, factor_C, scale, c, live, token, HAS_Z, HAS_FACTOR
        )
        carry_SC = tl.exp2(step[None, :] * rate_SC) * (carry_SC + grad_y[None, :] * read_S[:, None])
        if HAS_BEGINS:
            carry_SC = tl.where(tl.load(begins + t) != 0, 0.0, carry_SC)
        sum_C += step
    segment = b * tl.num_programs(1) + q
    tl.store(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], carry_SC, mask=real)
    tl.store(sums + segment * size_c + c, sum_C, mask=live)


@triton.jit
def advance(
    state_SC, start_SC, u, delta, u_n, delta_n, write, write_n, bias_C, rate_SC, order, begins, n1, n2, s0, s1, s2, size_n,
    size_s, t, stop, c, live, s, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr, CLOSED: tl.constexpr,
    SNAKE: tl.constexpr, REVERSED: tl.constexpr,
):  # fmt: skip
    """One step forward: the state before it (after a restart) and the state after it. Steps from `stop` on stand still."""
    inside = t < stop
    token = find_token(order, n1, n2, s0, s1, s2, size_n, tl.where(inside, t, stop - 1), CLOSED, SNAKE, REVERSED)
    x, _raw, step = load_step(u, delta, u_n, delta_n, bias_C, c, live, token, SOFTPLUS)
    write_S = tl.load(write + token * write_n + s, mask=s < size_s, other=0.0).to(tl.float32)
    step = tl.where(inside, step, 0.0)
    before_SC = state_SC
    if HAS_BEGINS:
        before_SC = tl.where((tl.load(begins + tl.where(inside, t, stop - 1)) != 0) & inside, start_SC, state_SC)
    return before_SC, tl.exp2(step[None, :] * rate_SC) * before_SC + (step * x)[None, :] * write_S[:, None]


@triton.jit
def retreat(
    before_SC, carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor,
    u, delta, u_n, delta_n, write, write_n, read, read_n, skip_C, bias_C, factor_C, rate_SC, z, z_n, grad_out, grad_n,
    grad_u, grad_delta, grad_z, grad_write, grad_read, order, begins, n1, n2, s0, s1, s2, size_n, size_c, size_s, t, stop,
    scale, c, live, s, groups_w, groups_r,
    HAS_Z: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr, CLOSED: tl.constexpr,
    SNAKE: tl.constexpr, REVERSED: tl.constexpr, ADD_U: tl.constexpr, ADD_DELTA: tl.constexpr, ADD_Z: tl.constexpr,
    ADD_WRITE: tl.constexpr, ADD_READ: tl.constexpr,
):  # fmt: skip
    """One step back: writes the gradients of its token, returns the carried ones."""
    inside = t < stop
    at = tl.where(inside, t, stop - 1)
    token = find_token(order, n1, n2, s0, s1, s2, size_n, at, CLOSED, SNAKE, REVERSED)
    lanes, states = live & inside, (s < size_s) & inside
    x, raw, step = load_step(u, delta, u_n, delta_n, bias_C, c, lanes, token, SOFTPLUS)
    step = tl.where(inside, step, 0.0)
    write_S = tl.load(write + token * write_n + s, mask=states, other=0.0).to(tl.float32)
    read_S = tl.load(read + token * read_n + s, mask=states, other=0.0).to(tl.float32)
    grad_y, through, gate = load_grad(grad_out, z, grad_n, z_n, factor_C, scale, c, lanes, token, HAS_Z, HAS_FACTOR)
    drive = step * x
    # computed a third time: kept from `advance` in registers, the decays would spill
    decay_SC = tl.exp2(step[None, :] * rate_SC)
    state_SC = decay_SC * before_SC + drive[None, :] * write_S[:, None]
    adjoint_SC = carry_SC + grad_y[None, :] * read_S[:, None]
    back_SC = adjoint_SC * decay_SC
    faded_SC = back_SC * before_SC
    into = tl.sum(adjoint_SC * write_S[:, None], 0)
    grad_raw = x * into + tl.sum(faded_SC * rate_SC, 0) * 0.6931471805599453  # rate_SC carries log2(e)
    if SOFTPLUS:
        grad_raw *= sigmoid(raw)
    grad_x = step * into + skip_C * grad_y
    row = token * size_c + c
    if ADD_U:
        grad_x += tl.load(grad_u + row, mask=lanes, other=0.0).to(tl.float32)
    tl.store(grad_u + row, grad_x.to(grad_u.dtype.element_ty), mask=lanes)
    whole = grad_raw
    if ADD_DELTA:
        whole += tl.load(grad_delta + row, mask=lanes, other=0.0).to(tl.float32)
    tl.store(grad_delta + row, whole.to(grad_delta.dtype.element_ty), mask=lanes)
    to_write = tl.sum(adjoint_SC * drive[None, :], 1)
    to_read = tl.sum(state_SC * grad_y[None, :], 1)
    row_w, row_r = token * groups_w * size_s + s, token * groups_r * size_s + s
    if ADD_WRITE:
        to_write += tl.load(grad_write + row_w, mask=states, other=0.0)
    if ADD_READ:
        to_read += tl.load(grad_read + row_r, mask=states, other=0.0)
    tl.store(grad_write + row_w, to_write, mask=states)
    tl.store(grad_read + row_r, to_read, mask=states)
    y = through * 0.0
    if HAS_Z or HAS_FACTOR:
        y = tl.sum(state_SC * read_S[:, None], 0) + skip_C * x
    gated = through
    if HAS_Z:
        half = sigmoid(gate)
        grad_gate = through * half * (1.0 + gate * (1.0 - half)) * y
        if HAS_FACTOR:
            grad_gate *= factor_C
        else:
            grad_gate *= scale
        if ADD_Z:
            grad_gate += tl.load(grad_z + row, mask=lanes, other=0.0).to(tl.float32)
        tl.store(grad_z + row, grad_gate.to(grad_z.dtype.element_ty), mask=lanes)
        gated *= gate * half
    to_rate_SC += faded_SC * step[None, :]
    to_skip += grad_y * x
    to_bias += tl.where(lanes, grad_raw, 0.0)
    to_factor += gated * y
    carry = tl.where(inside, back_SC, carry_SC)
    if HAS_BEGINS:
        begin = (tl.load(begins + at) != 0) & inside
        to_start_SC += tl.where(begin, back_SC, 0.0)
        carry = tl.where(begin, 0.0, carry)
    return carry, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor


@triton.jit
def backward_kernel(
    u, delta, rate, write, read, skip, z, bias, factor, start, order, begins, table, kept, grad_out, ends, scratch,
    grad_u, grad_delta, grad_z, grad_write, grad_read, grad_rate, grad_start, grad_rows,
    u_b, u_n, delta_b, delta_n, write_b, write_n, write_g, read_b, read_n, read_g, z_b, z_n, kept_b, grad_b, grad_n,
    grad_u_b, grad_delta_b, groups_w, groups_r, n1, n2, s0, s1, s2, size_n, size_c, size_s, span, scale,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_START: tl.constexpr,
    HAS_BEGINS: tl.constexpr, SOFTPLUS: tl.constexpr, CLOSED: tl.constexpr, SNAKE: tl.constexpr, REVERSED: tl.constexpr,
    ADD_U: tl.constexpr, ADD_DELTA: tl.constexpr, ADD_Z: tl.constexpr, ADD_WRITE: tl.constexpr, ADD_READ: tl.constexpr,
    BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """All gradients of one segment, from its end, given the adjoint that reaches it (ends).

    grad_write, grad_read (blocks, B, N, G, S) float32: a partial sum per block of channels. grad_rate, grad_start
    (B, Q, S, C) and grad_rows (3, B, Q, C: skip, bias, factor): a partial sum per segment.
    """
    c, live, head, gw, gr = load_block(table, BLOCK)
    block, q, b = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    batch, segments = tl.num_programs(2), tl.num_programs(1)
    s = tl.arange(0, STATE)
    real = (s < size_s)[:, None] & live[None, :]
    rate_SC = tl.load(rate + c[None, :] * size_s + s[:, None], mask=real, other=0.0) * 1.4426950408889634
    start_SC = load_state(start, b, c, live, s, size_c, size_s, HAS_START, BLOCK, STATE)
    bias_C = load_row(bias, c, live, HAS_BIAS, BLOCK)
    skip_C = load_row(skip, c, live, HAS_SKIP, BLOCK)
    factor_C = load_row(factor, c, live, HAS_FACTOR, BLOCK)
    u += b * u_b
    delta += b * delta_b
    z += b * z_b
    grad_out += b * grad_b
    write += b * write_b + gw.to(tl.int64) * write_g
    read += b * read_b + gr.to(tl.int64) * read_g
    order += head.to(tl.int64) * size_n
    begins += head.to(tl.int64) * size_n
    grad_u += b * grad_u_b
    grad_delta += b * grad_delta_b
    grad_z += b * size_n * size_c
    grad_write += ((block * batch + b) * size_n * groups_w + gw) * size_s
    grad_read += ((block * batch + b) * size_n * groups_r + gr) * size_s
    scratch += ((block * batch + b) * segments + q) * (STEPS // SUB) * STATE * BLOCK
    tile = s[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    segment = b * segments + q
    carry_SC = tl.load(ends + (segment * size_s + s[:, None]) * size_c + c[None, :], mask=real, other=0.0)
    to_rate_SC = tl.zeros((STATE, BLOCK), tl.float32)
    to_start_SC = tl.zeros((STATE, BLOCK), tl.float32)
    to_skip, to_bias = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    to_factor = tl.zeros((BLOCK,), tl.float32)
    stop = min(q * span + span, size_n)
    chunks = (stop - q * span + STEPS - 1) // STEPS
    for back in range(0, chunks):
        first = q * span + (chunks - 1 - back) * STEPS
        at = kept + b * kept_b + ((first // STEPS).to(tl.int64) * size_s + s[:, None]) * size_c + c[None, :]
        state_SC = tl.load(at, mask=real, other=0.0)
        end = min(first + STEPS, stop)
        pairs = (end - first + SUB - 1) // SUB
        for i in range(0, end - first):
            if i % SUB == 0:
                tl.store(scratch + (i // SUB) * (STATE * BLOCK) + tile, state_SC)
            before, state_SC = advance(
                state_SC, start_SC, u, delta, u_n, delta_n, write, write_n, bias_C, rate_SC, order, begins, n1, n2, s0, s1,
                s2, size_n, size_s, first + i, end, c, live, s, HAS_BEGINS, SOFTPLUS, CLOSED, SNAKE, REVERSED,
            )  # fmt: skip
        tl.debug_barrier()
        for j in range(0, pairs):
            t = first + (pairs - 1 - j) * SUB
            state_SC = tl.load(scratch + (pairs - 1 - j) * (STATE * BLOCK) + tile)
            before0, state_SC = advance(
                state_SC, start_SC, u, delta, u_n, delta_n, write, write_n, bias_C, rate_SC, order, begins, n1, n2, s0, s1,
                s2, size_n, size_s, t, end, c, live, s, HAS_BEGINS, SOFTPLUS, CLOSED, SNAKE, REVERSED,
            )  # fmt: skip
            before1, state_SC = advance(
                state_SC, start_SC, u, delta, u_n, delta_n, write, write_n, bias_C, rate_SC, order, begins, n1, n2, s0, s1,
                s2, size_n, size_s, t + 1, end, c, live, s, HAS_BEGINS, SOFTPLUS, CLOSED, SNAKE, REVERSED,
            )  # fmt: skip
            # a loop with a select, not two copies of its body: the compiler would hoist all their loads, and spill
            for k in range(0, SUB):
                before = tl.where(k == 0, before1, before0)
                carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor = retreat(
                    before, carry_SC, to_rate_SC, to_start_SC, to_skip, to_bias, to_factor,
                    u, delta, u_n, delta_n, write, write_n, read, read_n, skip_C, bias_C, factor_C, rate_SC, z, z_n, grad_out,
                    grad_n, grad_u, grad_delta, grad_z, grad_write, grad_read, order, begins, n1, n2, s0, s1, s2, size_n,
                    size_c, size_s, t + (SUB - 1 - k), end, scale, c, live, s, groups_w, groups_r,
                    HAS_Z, HAS_FACTOR, HAS_BEGINS, SOFTPLUS, CLOSED, SNAKE, REVERSED, ADD_U, ADD_DELTA, ADD_Z, ADD_WRITE,
                    ADD_READ,
                )  # fmt: skip
    at = (segment * size_s + s[:, None]) * size_c + c[None, :]
    tl.store(grad_rate + at, to_rate_SC, mask=real)
    if HAS_BEGINS:
        tl.store(grad_start + at, to_start_SC, mask=real)
    row = segment * size_c + c
    plane = batch * segments * size_c
    tl.store(grad_rows + row, to_skip, mask=live)
    tl.store(grad_rows + plane + row, to_bias, mask=live)
    tl.store(grad_rows + 2 * plane + row, to_factor, mask=live)
