"""mamba_ssm's Mamba-2 functions: the scan of heads with a scalar decay, alone and with the convolution and norm around it.

B batch, L length, H heads of P channels, G groups, S states. Source: Dao and Gu 2024 (Mamba-2); facts of the interface: the
documentation of mamba_ssm.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional

from ..gated_linear_recurrence import ssd
from .norms import rmsnorm_fn
from .options import refuse_unknown
from .short_convolution import causal_conv1d_fn

NO_LIMIT = (0.0, math.inf)


class _Scan(NamedTuple):
    """One call's tensors after the step size is known."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def _run(scan: _Scan, states: Optional[Tensor], ends: Optional[Tensor], D: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """Outputs (B, L, H, P) and the states (B * W, H, P, S) at the end of each of W sequences.

    Args:
        states: (B, H, P, S) before the first sequence.
        ends: (W + 1,) where packed sequences begin, and the length; None for one sequence.
    """
    start = None
    if states is not None:
        start = states.transpose(2, 3)
        if ends is not None:  # only the first sequence goes on from somewhere
            others = start.new_zeros(start.shape[0], len(ends) - 2, *start.shape[1:])
            start = torch.cat([start.unsqueeze(1), others], 1).flatten(0, 1)
    out, last = ssd(*scan, D=D, initial_state=start, cu_seqlens=ends)
    return out, last.transpose(2, 3)


def _boundaries(seq_idx: Tensor) -> Tensor:
    """(L,) numbers of sequences -> (W + 1,) where they begin, and L."""
    changes = (seq_idx[1:] != seq_idx[:-1]).nonzero().flatten().cpu() + 1
    return torch.cat([changes.new_zeros(1), changes, changes.new_full((1,), seq_idx.shape[0])])


def _run_sequences(
    scan: _Scan, states: Optional[Tensor], seq_idx: Optional[Tensor], D: Optional[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Outputs, and the states (B, H, P, S) at the end of the last sequence of every sample."""
    if seq_idx is None:
        return _run(scan, states, None, D)
    if bool((seq_idx == seq_idx[:1]).all()):
        parts = [_run(scan, states, _boundaries(seq_idx[0]), D)]
        sizes = [scan.x.shape[0]]
    else:
        parts, sizes = [], [1] * scan.x.shape[0]
        for b in range(scan.x.shape[0]):
            one = _Scan(*(t if t.dim() == 1 else t[b : b + 1] for t in scan))
            parts.append(_run(one, None if states is None else states[b : b + 1], _boundaries(seq_idx[b]), D))
    lasts = [last.unflatten(0, (size, -1))[:, -1] for (_, last), size in zip(parts, sizes, strict=True)]
    return torch.cat([out for out, _ in parts]), torch.cat(lasts)


def step_size(dt: Tensor, bias: Optional[Tensor], softplus: bool, limit: Tuple[float, float]) -> Tensor:
    """The step size in the dtype of sums: after bias, softplus and limits."""
    step = dt.to(torch.promote_types(dt.dtype, torch.float32))
    step = step if bias is None else step + bias.to(step.dtype)
    step = functional.softplus(step) if softplus else step
    return step if tuple(limit) == NO_LIMIT else step.clamp(*limit)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    dt_bias: Optional[Tensor] = None,
    initial_states: Optional[Tensor] = None,
    seq_idx: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    dt_softplus: bool = False,
    dt_limit: Tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    **unknown: object,
) -> Union[Tensor, Tuple[Tensor, ...]]:
    """S_t = exp(dt_t A) S_(t-1) + dt_t B_t x_t^T; y_t = C_t . S_t + D x_t, times silu(z).

    Args:
        x: (B, L, H, P); z alike or None.
        dt: (B, L, H); dt_bias (H,) or None.
        A: (H,), negative.
        B, C: (B, L, G, S).
        chunk_size: taken and without effect on the result: chunks are chosen here.
        D: (H,) or (H, P), or None.
        initial_states: (B, H, P, S), before the first sequence.
        seq_idx: (B, L), numbers of packed sequences; the state starts anew where they change.
        cu_seqlens: (W + 1,), where packed sequences begin; only for return_varlen_states, which needs B = 1.
        dt_softplus, dt_limit: of the step size after its bias.
        return_final_states: also return (B, H, P, S) at the end; unlike in mamba_ssm with gradients always.
        return_varlen_states: also return (W, H, P, S), the states at the end of every packed sequence.

    Returns:
        (B, L, H, P) in the dtype of x; with states a tuple.

    Raises:
        UnknownOptionError: an option that is not known.
        ValueError: shapes that do not fit.
    """
    refuse_unknown("mamba_chunk_scan_combined", unknown)
    scan = _Scan(x, step_size(dt, dt_bias, dt_softplus, dt_limit), A, B, C)
    y, last = _run_sequences(scan, initial_states, seq_idx, D)
    y = y if z is None else (y.to(scan.dt.dtype) * functional.silu(z.to(scan.dt.dtype))).to(x.dtype)
    states = [last] if return_final_states else []
    if return_varlen_states:
        if cu_seqlens is None or x.shape[0] != 1:
            raise ValueError(
                f"mamba_chunk_scan_combined: return_varlen_states: found a batch of {x.shape[0]} and cu_seqlens="
                f"{None if cu_seqlens is None else list(cu_seqlens.shape)}; expected a batch of 1 and cu_seqlens"
            )
        states.append(_run(scan, initial_states, cu_seqlens.cpu(), D)[1])
    return (y, *states) if states else y


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Optional[Tensor],
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Optional[Tensor] = None,
    seq_idx: Optional[Tensor] = None,
    dt_limit: Tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    activation: Optional[str] = "silu",
    rmsnorm_weight: Optional[Tensor] = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Optional[Tensor] = None,
    outproj_bias: Optional[Tensor] = None,
    headdim: Optional[int] = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    **unknown: object,
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """Mamba2 from its projection in to its projection out.

    Args:
        zxbcdt: (B, L, 2 M + 2 H P + 2 G S + H): M pairs of a gated MLP (may be 0), then gate, input, B, C and step size.
        conv1d_weight: (H P + 2 G S, W), over input, B and C.
        dt_bias, A: (H,). D: (H,) with headdim, or (H, P).
        rmsnorm_weight: (H P,): gated norm of the output, in ngroups groups; None gates without norm.
        outproj_weight: (N, M + H P), or None for no projection.

    Returns:
        (B, L, N); with return_final_states a pair.
    """
    refuse_unknown("mamba_split_conv1d_scan_combined", unknown)
    if D.dim() == 1 and headdim is None:
        raise ValueError(
            "mamba_split_conv1d_scan_combined: headdim: found None with D of one axis, expected the channels of a head"
        )
    heads, per_head = D.shape[0], D.shape[1] if D.dim() == 2 else int(headdim or 0)
    inner, mixed = heads * per_head, conv1d_weight.shape[0]
    paired = (zxbcdt.shape[-1] - inner - mixed - heads) // 2
    gate0, x0, z, xbc, dt = zxbcdt.split([paired, paired, inner, mixed, heads], -1)
    xbc = causal_conv1d_fn(
        xbc.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx=seq_idx, activation=activation
    ).transpose(1, 2)  # type: ignore[union-attr]
    x, B, C = xbc.split([inner, (mixed - inner) // 2, (mixed - inner) // 2], -1)
    y = mamba_chunk_scan_combined(
        x.unflatten(-1, (heads, per_head)), dt, A, B.unflatten(-1, (ngroups, -1)), C.unflatten(-1, (ngroups, -1)), chunk_size,
        D, z.unflatten(-1, (heads, per_head)) if rmsnorm_weight is None else None, dt_bias, initial_states, seq_idx,
        dt_softplus=True, dt_limit=dt_limit, return_final_states=True,
    )  # fmt: skip
    out, last = y[0].flatten(2), y[1]
    if rmsnorm_weight is not None:
        out = rmsnorm_fn(out, rmsnorm_weight, None, z, rmsnorm_eps, inner // ngroups, norm_before_gate)
    if paired:
        out = torch.cat([functional.silu(gate0) * x0, out], -1)
    if outproj_weight is not None:
        bias = None if outproj_bias is None else outproj_bias.to(out.dtype)
        out = functional.linear(out, outproj_weight.to(out.dtype), bias)
    return (out, last) if return_final_states else out
