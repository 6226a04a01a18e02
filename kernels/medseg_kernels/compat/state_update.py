"""One step of a selective scan, for generation: mamba_ssm's `selective_state_update`."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional

from .options import refuse_unknown


def _each_head(x: Tensor, heads: int) -> Tensor:
    """(B, G, S) -> (B, H, 1, S)."""
    return x.repeat_interleave(heads // x.shape[1], 1).unsqueeze(2)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    dt_bias: Optional[Tensor] = None,
    dt_softplus: bool = False,
    state_batch_indices: Optional[Tensor] = None,
    **unknown: object,
) -> Tensor:
    """state = exp(dt A) state + dt B x, in place; returns C . state + D x, times silu(z).

    H heads of P channels, S states, G groups; the axis H may be missing everywhere (then G too).

    Args:
        state: (B, H, P, S) or (B, P, S), changed. With state_batch_indices its first axis is longer.
        x, dt, z: (B, H, P) or (B, P); z may be None.
        A: (H, P, S) or (P, S).
        B, C: (B, G, S) or (B, S).
        D, dt_bias: (H, P) or (P,), or None.
        dt_softplus: apply softplus to dt after its bias.
        state_batch_indices: (B,) integers, the rows of state that belong to x.

    Returns:
        like x.

    Raises:
        UnknownOptionError: an option that is not known.
    """
    refuse_unknown("selective_state_update", unknown)
    flat = x.dim() == 2
    work = torch.promote_types(state.dtype, torch.float32)
    heads = 1 if flat else x.shape[1]
    rows = state if state_batch_indices is None else state[state_batch_indices]
    lead = (lambda t: t.to(work).unsqueeze(1)) if flat else (lambda t: t.to(work))
    step, u = lead(dt), lead(x)
    step = step if dt_bias is None else step + dt_bias.to(work)
    step = functional.softplus(step) if dt_softplus else step
    write, read = (_each_head(lead(t), heads) for t in (B, C))
    new = torch.exp(step.unsqueeze(-1) * A.to(work)) * lead(rows) + (step * u).unsqueeze(-1) * write
    out = (new * read).sum(-1)
    out = out if D is None else out + D.to(work) * u
    out = out if z is None else out * functional.silu(lead(z))
    with torch.no_grad():
        kept = (new.squeeze(1) if flat else new).to(state.dtype)
        if state_batch_indices is None:
            state.copy_(kept)
        else:
            state[state_batch_indices] = kept
    return (out.squeeze(1) if flat else out).to(x.dtype)
