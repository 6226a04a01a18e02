"""The selective scan, one step at a time: the truth the fast forms are tested against. Slow, and differentiable.

B batch, R traversals, N tokens, C channels, S scan state, G groups of channels. In the papers: rate = A, write = B,
read = C, skip = D. A size written R' is R, or 1 where all traversals share the tensor.

    delta_t = softplus(delta[p] + bias)                                   p = order[t]; identity above 20
    h_t     = exp(delta_t rate) h_(t-1) + delta_t u[p] write[p]           h = initial state at the first step of a piece
    y[p]    = read[p] . h_t + skip u[p]
    out     = merge over traversals of y, times silu(z)

Source: Gu and Dao 2023, Mamba, equation 2 and section 3.5; the discretisation of `write` is the simplified one of its code.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ..traversals.orders import Traversal


def pick(x: Tensor, r: int) -> Tensor:
    """Traversal r of a (B, R', ...) tensor. Scriptable."""
    return x[:, r if x.shape[1] > 1 else 0]


def pick_row(x: Tensor, r: int) -> Tensor:
    """Traversal r of a (R', ...) tensor. Scriptable."""
    return x[r if x.shape[0] > 1 else 0]


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype; float16 stops at its largest number, which y silu(z) can pass, and keeps NaN. Scriptable."""
    if dtype == torch.float16:
        x = x.clamp(-65504.0, 65504.0)
    return x.to(dtype)


def merge_traversals(ys: List[Tensor], merge: str, weights: Optional[Tensor]) -> Tensor:
    """R tensors (B, N, C) -> (B, N, C), or (B, N, R*C) for `concat`. Scriptable.

    Args:
        ys: results of the traversals.
        merge: sum, mean, concat or weights.
        weights: (R, C), for `weights`.
    """
    if merge == "concat":
        return torch.cat(ys, -1)
    total = ys[0] if weights is None else ys[0] * weights[0]
    for r in range(1, len(ys)):
        total = total + (ys[r] if weights is None else ys[r] * weights[r])
    return total / len(ys) if merge == "mean" else total


def reference_scan(
    u: Tensor,
    delta: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    weights: Optional[Tensor],
    grid: Tuple[int, int, int],
    traversals: List[str],
    delta_softplus: bool,
    merge: str,
) -> Tuple[Tensor, Tensor]:
    """Outputs (B, N, C) or (B, N, R*C), and last states (B, R, C, S), in the dtype of `u`.

    Args:
        u: (B, R', N, C).
        delta: (B, R', N, C).
        rate: (R', C, S).
        write: (B, R', N, G, S), G dividing C.
        read: (B, R', N, G, S), its G may differ from that of `write`.
        skip: (R', C) or None.
        z: (B, N, C) or None, the gate before its SiLU.
        bias: (R', C) or None, added to delta.
        initial_state: (B, R, C, S) or None.
        weights: (R, C) or None.
        grid: X, Y, Z with X*Y*Z = N.
        traversals: R texts.
        delta_softplus: apply softplus to delta (after the bias).
        merge: sum, mean, concat or weights.
    """
    ys, states = [], []
    channels = u.shape[-1]
    for r, text in enumerate(traversals):
        heads = Traversal.parse(text).heads
        width = channels // len(heads)
        parts = []
        for h, head in enumerate(heads):
            c = slice(h * width, (h + 1) * width)
            x, step = pick(u, r)[..., c], pick(delta, r)[..., c]
            step = step if bias is None else step + pick_row(bias, r)[c]
            step = functional.softplus(step, threshold=20.0) if delta_softplus else step
            w = pick(write, r).repeat_interleave(channels // write.shape[3], 2)[:, :, c]
            q = pick(read, r).repeat_interleave(channels // read.shape[3], 2)[:, :, c]
            start = None if initial_state is None else initial_state[:, r, c]
            parts.append(_scan_steps(x, step, pick_row(rate, r)[c], w, q, start, head, grid))
        y, state = torch.cat([p[0] for p in parts], -1), torch.cat([p[1] for p in parts], 1)
        ys.append(y if skip is None else y + pick_row(skip, r) * pick(u, r))
        states.append(state)
    out = merge_traversals(ys, merge, weights)
    if z is not None:
        gate = functional.silu(z)
        out = out * (gate.repeat(1, 1, len(ys)) if merge == "concat" else gate)
    return out, torch.stack(states, 1)


def _scan_steps(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, start: Optional[Tensor],
    traversal: Traversal, grid: Tuple[int, int, int],
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """The recurrence itself for channels that share one traversal: x, step (B, N, C); write, read (B, N, C, S)."""
    order = traversal.order(grid, x.device)
    begins = set(traversal.pieces(grid)[:-1])
    zero = x.new_zeros(x.shape[0], x.shape[2], rate.shape[1])
    start = zero if start is None else start
    # unbind, not x[:, t]: indexing inside the loop makes the backward quadratic in N
    decays = torch.exp(step.unsqueeze(-1) * rate)[:, order].unbind(1)
    drives = ((step * x).unsqueeze(-1) * write)[:, order].unbind(1)
    state, states = start, []
    for t in range(len(decays)):
        state = decays[t] * (start if t in begins else state) + drives[t]
        states.append(state)
    y = (torch.stack(states, 1) * read[:, order]).sum(-1)
    return y[:, traversal.inverse(grid, x.device)], state
