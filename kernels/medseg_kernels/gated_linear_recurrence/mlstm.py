"""xLSTM's matrix memory: exponential gates with a running maximum that keeps them <= 1, and a normaliser.

The maximum m only rescales numerator and denominator alike, so the output does not depend on it (but for eps): once m is
known, mLSTM *is* the gated recurrence with decay logsigmoid(f_t) + m_(t-1) - m_t and input gate exp(i_t - m_t), both
factors <= 1, and the normaliser is one more value channel that holds ones. No kernel of its own is needed.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .checks import check_kinds, check_shape
from .run import flat, merge_outputs, run_once, texts_of, unflat
from .visits import piece_count, visit

State = Tuple[Tensor, Tensor, Tensor]


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    eps: float = 1e-6,
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tuple[Tensor, Tensor, Tensor]]:
    """mLSTM with exponential input gate, sigmoid forget gate and max-stabiliser.

        m_t = max(logsigmoid(f_t) + m_(t-1), i_t)
        F = exp(logsigmoid(f_t) + m_(t-1) - m_t),   I = exp(i_t - m_t)
        S_t = F S_(t-1) + I k_t v_t^T,   n_t = F n_(t-1) + I k_t
        o_t = scale S_t^T q_t / (max(|scale n_t . q_t|, exp(-m_t)) + eps)

    Args:
        q, k, v: (B, N, H, K or V) or (B, X, Y, Z, H, K or V).
        i, f: (B, N, H) or (B, X, Y, Z, H) gates before their activations.
        scale: factor of q; 1/sqrt(K) if None.
        initial_state: (S, n, m) of shapes (B * W, H, K, V), (B * W, H, K), (B * W, H); zeros if None.
        cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`.
        eps: added to the denominator.

    Returns:
        output like v, and the final (S, n, m), S and n scaled by exp(-m). The final m is a constant for the gradient, and so
        are its steps: what is read from S and n through another call does not depend on how they are scaled. The gradient
        with respect to an initial m is that of exp(m) S and exp(m) n.

    Source: Beck et al. 2024 (arXiv 2405.04517). With a sigmoid input gate instead, call `gated_linear_recurrence` with
    g=logsigmoid(f), input_gate=sigmoid(i).
    """
    if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # type: ignore[attr-defined]
        check_kinds({"q": q, "k": k, "v": v, "i": i, "f": f})
        check_shape("i", i, q.shape[:-1])
        check_shape("f", f, q.shape[:-1])
        if initial_state is not None:
            memory, normaliser, maximum = initial_state
            check_kinds({"q": q, "initial_state S": memory, "initial_state n": normaliser, "initial_state m": maximum})
    grid = list(q.shape[1:-2])
    gate, forget = flat(i, grid, 1), flat(f, grid, 1)
    queries, keys, values = flat(q, grid, 2), flat(k, grid, 2), flat(v, grid, 2)
    texts = texts_of(traversals, grid, cu_seqlens, merge)
    outputs: List[Tensor] = []
    memories: List[Tensor] = []
    normalisers: List[Tensor] = []
    maxima: List[Tensor] = []
    done = 0
    for r in range(len(texts)):
        start = initial_state
        if start is not None and len(texts) > 1:
            end = done + q.shape[0] * piece_count(texts[r], grid)
            start = (start[0][done:end], start[1][done:end], start[2][done:end])
            done = end
        output, last = mlstm_once(
            queries, keys, values, gate, forget, scale, start, cu_seqlens, grid, texts[r], eps, backend
        )  # fmt: skip
        outputs.append(output)
        memories.append(last[0])
        normalisers.append(last[1])
        maxima.append(last[2])
    output = unflat(merge_outputs(outputs, merge), grid)
    if len(texts) == 1:
        return output, (memories[0], normalisers[0], maxima[0])
    return output, (torch.cat(memories), torch.cat(normalisers), torch.cat(maxima))


def mlstm_once(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    scale: Optional[float],
    initial_state: Optional[Tuple[Tensor, Tensor, Tensor]],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    text: str,
    eps: float,
    backend: Optional[str],
) -> Tuple[Tensor, Tuple[Tensor, Tensor, Tensor]]:
    """mLSTM along one traversal; arguments flattened to (B, N, ...)."""
    order, bounds = visit(text, grid, q.device)
    pieces = cu_seqlens if bounds is None else torch.tensor(bounds, device=q.device)
    wide = torch.promote_types(torch.promote_types(i.dtype, f.dtype), torch.float32)
    count = 1 if pieces is None else pieces.shape[0] - 1
    start = torch.zeros(q.shape[0] * count, q.shape[2], dtype=wide, device=q.device)
    memory: Optional[Tensor] = None
    if initial_state is not None:
        start = initial_state[2]
        memory = torch.cat([initial_state[0], initial_state[1].unsqueeze(-1)], -1)
        if start.requires_grad:
            memory = memory * (start - start.detach()).exp()[:, :, None, None]  # times 1: m is a constant below
    log_forget = torch.nn.functional.logsigmoid(f.to(wide))
    highest, previous, last = running_maximum(log_forget.detach(), i.detach().to(wide), start.detach(), order, pieces)
    # m was rounded, so an exponent could come out as +1e-16; the limit is on the constant part, a clamp would cut gradients
    decay = log_forget.double() + torch.minimum(previous - highest, -log_forget.detach().double())
    gate = (i.double() + torch.minimum(-highest, -i.detach().double())).exp()
    ones = torch.ones_like(v[..., :1])
    extended = torch.cat([v, ones], -1)
    both, final = run_once(
        q, k, extended, decay.to(wide), gate.to(wide), scale, memory, cu_seqlens, grid, text, False, backend
    )
    floor = (-highest).exp().to(both.dtype).unsqueeze(-1)
    size_v = v.shape[-1]
    output = both[..., :size_v] / (torch.maximum(both[..., size_v:].abs(), floor) + eps)
    return output.to(v.dtype), (final[..., :size_v], final[..., size_v], last.to(wide))


def running_maximum(
    log_forget: Tensor, i: Tensor, start: Tensor, order: Optional[Tensor], pieces: Optional[Tensor]
) -> Tuple[Tensor, Tensor, Tensor]:
    """The stabiliser m_t = max(log_forget_t + m_(t-1), i_t) of all steps at once.

    With F the cumulative sum of log_forget, m_t = F_t + max over s <= t of (i_s - F_s). In float64: over 100 000 steps F
    reaches values of which float32 keeps two decimals.

    Args:
        log_forget, i: (B, N, H).
        start: (B * W, H), m before the first step of each piece.
        order: None or (R, N) token of each step.
        pieces: None or (W + 1,) bounds.

    Returns:
        m_t and m_(t-1), (B, N, H) by token, float64; last m of each piece, (B * W, H).
    """
    size_b, size_n, size_h = i.shape
    bounds = torch.tensor([0, size_n], device=i.device) if pieces is None else pieces.to(i.device, torch.long)
    begin = start.double().view(size_b, -1, size_h)
    if size_n == 0:
        return i.double(), i.double(), start
    index = step_index(order, size_n, size_h, i.device)
    fade = log_forget.double().gather(1, index.expand(size_b, -1, -1))
    gate = i.double().gather(1, index.expand(size_b, -1, -1))
    steps = torch.arange(size_n, device=i.device)
    owner = torch.zeros_like(steps)  # piece of each step: how many begin up to it (no exporter knows searchsorted)
    if pieces is not None:
        begins = torch.zeros(size_n + 1, dtype=torch.long, device=i.device)
        owner = begins.scatter_add(0, bounds[1:-1], torch.ones_like(bounds[1:-1])).cumsum(0)[:size_n]
    is_first = (steps == bounds[owner]).view(1, -1, 1)
    before_piece = begin[:, owner]
    relative = torch.where(is_first, torch.maximum(gate, fade + before_piece), gate) - fade.cumsum(1)
    # a later piece outweighs every earlier one, so that the maximum forgets at its start
    lift = (relative.max() - relative.min() + 1) * owner.view(1, -1, 1)
    highest = running_max(relative + lift) - lift + fade.cumsum(1)
    previous = torch.where(is_first, before_piece, highest.roll(1, 1))
    is_empty = (bounds[1:] == bounds[:-1]).view(1, -1, 1)
    last = torch.where(is_empty, begin, highest[:, (bounds[1:] - 1).clamp(min=0)])
    target = index.expand(size_b, -1, -1)
    by_token = torch.empty_like(highest).scatter(1, target, highest)
    return by_token, torch.empty_like(highest).scatter(1, target, previous), last.reshape(-1, size_h)


def step_index(order: Optional[Tensor], size_n: int, size_h: int, device: torch.device) -> Tensor:
    """(1, N, H) token that each head visits at each step."""
    if order is None:
        return torch.arange(size_n, device=device).view(1, -1, 1).expand(-1, -1, size_h)
    return order.to(device, torch.long).repeat_interleave(size_h // order.shape[0], 0).t().unsqueeze(0)


def running_max(x: Tensor) -> Tensor:
    """Cumulative maximum along axis 1 by doubling: log2(N) maxima, which every exporter knows (cummax is known to few)."""
    distance = 1
    while distance < x.shape[1]:
        x = torch.cat([x[:, :distance], torch.maximum(x[:, distance:], x[:, :-distance])], 1)
        distance *= 2
    return x
