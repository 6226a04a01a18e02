"""The recurrence written as it is defined: one step at a time, and as one masked product. Slow, readable, the truth.

B batch, N steps, H heads, K key channels, V value channels (a paper's d_k and d_v). S is the state, K x V per head.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor


def work_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays, everything else is computed in float32: in 16 bits a slow decay such as 0.999 rounds to 1."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    delta: bool = True,
) -> Tuple[Tensor, Tensor]:
    """One step at a time: decay, (erase,) write, read.

        S = exp(g_t) * S
        S = S + beta_t k_t v_t^T                 a plain write (beta 1 if none), or
        S = S + beta_t k_t (v_t - S^T k_t)^T     the delta rule: what is known is not written again
        o_t = scale S^T q_t

    Args:
        q, k: (B, N, H, K).
        v: (B, N, H, V).
        g: log decay, (H,) constant, (B, N, H) per head or (B, N, H, K) per key channel; none is 0.
        beta: (B, N, H) strength of the write.
        scale: factor of q, 1/sqrt(K) if none.
        initial_state: (B, H, K, V), zeros if none.
        delta: with a beta: True is the delta rule, False a plain write of that strength (an input gate).

    Returns:
        (B, N, H, V) in v's dtype, and the last state (B, H, K, V) in float32 (float64 for float64). Feeding the state
        back in continues the sequence, which is how one streams.
    """
    work = work_dtype(v)
    size_b, _, size_h, size_k = q.shape
    factor = size_k**-0.5 if scale is None else scale
    state = torch.zeros(size_b, size_h, size_k, v.shape[3], dtype=work, device=v.device)
    if initial_state is not None:
        state = initial_state.to(work)
    # unbind, not indexing: the backward of x[:, t] writes a tensor of the whole size for every step
    q_steps, k_steps, v_steps = q.to(work).unbind(1), k.to(work).unbind(1), v.to(work).unbind(1)
    decay_steps = decay_per_step(g, q).to(work).exp().unbind(1)
    beta_steps = torch.ones_like(q[..., 0], dtype=work).unbind(1) if beta is None else beta.to(work).unbind(1)
    outputs: List[Tensor] = []
    for t in range(q.shape[1]):
        state = decay_steps[t].unsqueeze(-1) * state
        value = v_steps[t]
        if beta is not None and delta:
            value = value - torch.einsum("bhkv,bhk->bhv", state, k_steps[t])
        value = beta_steps[t].unsqueeze(-1) * value
        state = state + k_steps[t].unsqueeze(-1) * value.unsqueeze(-2)
        outputs.append(factor * torch.einsum("bhkv,bhk->bhv", state, q_steps[t]))
    if len(outputs) == 0:
        return torch.zeros_like(v), state
    return torch.stack(outputs, 1).to(v.dtype), state


def parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    delta: bool = True,
) -> Tuple[Tensor, Tensor]:
    """All steps at once, as attention with a decay mask: memory N x N (x K for a decay per channel), for small N.

    Same arguments and results as `recurrent`. The delta rule solves one triangular system of N rows.
    """
    work = work_dtype(v)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    queries, keys, values = (x.to(work).transpose(1, 2) for x in (q, k, v))
    cum = decay_per_step(g, q).to(work).transpose(1, 2).cumsum(2)  # (B, H, N, 1 or K), never positive
    steps = torch.arange(q.shape[1], device=q.device)
    past = steps[:, None] >= steps[None, :]
    # -inf before exp: the other half of the differences is positive and would overflow
    difference = cum.unsqueeze(3) - cum.unsqueeze(2)
    weights = torch.where(past[None, None, :, :, None], difference, -torch.inf).exp()
    state = initial_state
    start = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=work) if state is None else state.to(work)
    strength = torch.ones_like(values[..., :1]) if beta is None else beta.to(work).transpose(1, 2).unsqueeze(-1)
    if beta is None or not delta:
        values = strength * values
    else:
        overlap = strength * torch.einsum(
            "bhik,bhjk,bhijk->bhij", keys, keys, weights.expand(-1, -1, -1, -1, q.shape[3])
        )
        system = torch.tril(overlap, -1) + torch.eye(q.shape[1], dtype=work, device=q.device)
        target = strength * (values - (keys * cum.exp()) @ start)
        values = torch.linalg.solve_triangular(system, target, upper=False, unitriangular=True)
    scores = torch.einsum("bhik,bhjk,bhijk->bhij", queries, keys, weights.expand(-1, -1, -1, -1, q.shape[3]))
    output = factor * (scores @ values + (queries * cum.exp()) @ start)
    last = cum[:, :, -1:]
    final = last.exp().transpose(2, 3) * start + (keys * (last - cum).exp()).transpose(2, 3) @ values
    return output.transpose(1, 2).to(v.dtype), final


def decay_per_step(g: Optional[Tensor], q: Tensor) -> Tensor:
    """The log decay as (B, N, H, 1) or (B, N, H, K), whichever of the four forms it was given in."""
    if g is None:
        return torch.zeros(1, 1, 1, 1, dtype=work_dtype(q), device=q.device).expand(
            q.shape[0], q.shape[1], q.shape[2], 1
        )
    if g.dim() == 1:
        return g.view(1, 1, -1, 1).expand(q.shape[0], q.shape[1], -1, 1)
    if g.dim() == 3:
        return g.unsqueeze(-1)
    return g


def floored(g: Tensor) -> Tensor:
    """The log decay, not below -30 (-60 in float64): exp(-30) forgets all that float32 holds, and lower values would only
    cost digits of the milder decays that are summed with them."""
    return g.clamp(min=-60.0 if g.dtype == torch.float64 else -30.0)
