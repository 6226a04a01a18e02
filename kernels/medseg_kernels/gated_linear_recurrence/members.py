"""The papers' names for members of the family: thin, each with its formula.

    S_t = exp(g_t) * S_(t-1) + write_t,   o_t = scale * S_t^T q_t,   S in R^(K x V) per head

| function | decay g | write |
|---|---|---|
| `retention` | a constant per head | k v^T |
| `ssd` (Mamba-2) | dt_t A per head | dt B x^T |
| `gla` | per key channel, or per head | k v^T |
| `delta_rule` | none | beta k (v - S^T k)^T |
| `gated_delta_rule` | per head or per key channel | beta k (v - S^T k)^T |
| `mlstm` (mlstm.py) | logsigmoid(f) | exp(i) k v^T, and a normaliser |

Every function takes sequences (B, N, H, E) or grids (B, X, Y, Z, H, E) with a visiting order, and returns
`(output, final_state)`. All can be called from TorchScript.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .api import gated_linear_recurrence
from .checks import check_kinds, check_shape


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """Retention: every head forgets at a constant rate.

        S_t = gamma_h S_(t-1) + k_t v_t^T,   o_t = scale * S_t^T q_t,   gamma = exp(log_decay)

    Args:
        q, k, v: (B, N, H, K or V) or (B, X, Y, Z, H, K or V).
        log_decay: (H,) log gamma, <= 0.
        scale, initial_state, cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`.

    Returns:
        output like v and final state (B, H, K, V).

    Source: Sun et al. 2023 (arXiv 2307.08621); in vision Hatamizadeh et al. 2023 (arXiv 2310.19731), whose released code takes
    a softmax of the decayed scores, which breaks the equality of its forms: not offered.
    """
    if log_decay.dim() != 1:
        raise ValueError(
            f"log_decay has shape {list(log_decay.shape)}; expected (H,), a constant per head. Otherwise: gla"
        )
    if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # type: ignore[attr-defined]
        check_kinds({"q": q, "k": k, "v": v, "log_decay": log_decay})
        check_shape("log_decay", log_decay, q.shape[-2:-1])
    return gated_linear_recurrence(
        q, k, v, log_decay, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens,
        traversals=traversals, merge=merge, backend=backend,
    )  # fmt: skip


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """State-space duality, the operator of Mamba-2: a scalar decay per head and step.

        S_t = exp(dt_t A) S_(t-1) + dt_t B_t x_t^T,   y_t = scale * S_t^T C_t + D x_t

    Args:
        x: (B, N, H, V) or (B, X, Y, Z, H, V).
        dt: (B, N, H) or (B, X, Y, Z, H) step sizes, positive (after softplus).
        A: (H,) rates, negative.
        B, C: (B, N, G, K) or (B, X, Y, Z, G, K), with G groups dividing H; heads h*H/G and following share a group.
        D: None, (H,) or (H, V): skip.
        scale: factor of C, 1 if None (unlike the attention-like members).
        initial_state, cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`. D is added to the merged
            output once for every traversal that was summed, once for the mean, and to each part of "concat".

    Returns:
        y like x and final state (B, H, K, V).

    Source: Dao and Gu 2024 (arXiv 2405.21060).
    """
    if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # type: ignore[attr-defined]
        check_kinds({"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D})
        if x.dim() not in (4, 6) or 0 in x.shape[-2:]:
            raise ValueError(
                f"x has shape {list(x.shape)}; expected (B, N, H, V) or (B, X, Y, Z, H, V), no empty heads"
            )
        if B.dim() != x.dim() or B.shape[-1] == 0:
            raise ValueError(f"B has shape {list(B.shape)}; expected {list(x.shape[:-2])}, then G groups, then K")
        if D is not None:
            check_shape("D", D, x.shape[-2:-1], x.shape[-2:])
    size_h, size_g = x.shape[-2], B.shape[-2]
    if A.dim() != 1 or A.shape[0] != size_h:
        raise ValueError(f"A has shape {list(A.shape)}; expected (H,) = {[size_h]}")
    if dt.shape != x.shape[:-1]:
        raise ValueError(
            f"dt has shape {list(dt.shape)}; expected {list(x.shape[:-1])}, that of x without its channels"
        )
    if B.shape != C.shape or B.dim() != x.dim() or size_g == 0 or size_h % size_g != 0:
        raise ValueError(
            f"B and C have shapes {list(B.shape)} and {list(C.shape)}; expected both {list(x.shape[:-2])}, then G groups that "
            f"divide H = {size_h}, then K"
        )
    step = dt.to(torch.promote_types(dt.dtype, torch.float32))
    output, state = gated_linear_recurrence(
        spread_groups(C, size_h), spread_groups(B, size_h), x, step * A.to(step.dtype), input_gate=step,
        scale=1.0 if scale is None else scale, initial_state=initial_state, cu_seqlens=cu_seqlens,
        traversals=traversals, merge=merge, backend=backend,
    )  # fmt: skip
    if D is not None:
        skip = (D if D.dim() == 2 else D.unsqueeze(-1)).to(x.dtype) * x
        count = 1 if traversals is None else len(traversals)
        if merge == "sum":
            skip = skip * count
        elif merge == "concat":
            skip = torch.cat([skip] * count, -2)
        output = output + skip
    return output, state


def spread_groups(x: Tensor, size_h: int) -> Tensor:
    """(..., G, K) -> (..., H, K): every head reads its group; no copy for one group."""
    size_g = x.shape[-2]
    if size_g == size_h:
        return x
    if size_g == 1:
        return x.expand(list(x.shape[:-2]) + [size_h, x.shape[-1]])  # noqa: RUF005 - TorchScript
    return x.repeat_interleave(size_h // size_g, -2)


def gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """Gated linear attention: every key channel forgets at a rate of its own, chosen at every step.

        S_t = diag(exp(g_t)) S_(t-1) + k_t v_t^T,   o_t = scale * S_t^T q_t

    Args:
        q, k, v: (B, N, H, K or V) or (B, X, Y, Z, H, K or V).
        g: log decay <= 0, shaped like k; or without K, one per head ("simple GLA").
        scale, initial_state, cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`.

    Returns:
        output like v and final state (B, H, K, V).

    Source: Yang et al. 2023 (arXiv 2312.06635).
    """
    return gated_linear_recurrence(
        q, k, v, g, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens,
        traversals=traversals, merge=merge, backend=backend,
    )  # fmt: skip


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """The delta rule (DeltaNet): what the state already answers to k is not written again.

        S_t = S_(t-1) + beta_t k_t (v_t - S_(t-1)^T k_t)^T,   o_t = scale * S_t^T q_t

    Args:
        q, k, v: (B, N, H, K or V) or (B, X, Y, Z, H, K or V); k of length 1 per head, or the state may grow.
        beta: (B, N, H) or (B, X, Y, Z, H), in [0, 1] (up to 2 is stable for keys of length 1).
        scale, initial_state, cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`.

    Returns:
        output like v and final state (B, H, K, V).

    Source: Yang et al. 2024 (arXiv 2406.06484).
    """
    return gated_linear_recurrence(
        q, k, v, None, beta, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens,
        traversals=traversals, merge=merge, backend=backend,
    )  # fmt: skip


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """The delta rule after a decay (Gated DeltaNet). The argument g comes before beta.

        S_t = D + beta_t k_t (v_t - D^T k_t)^T,   D = exp(g_t) S_(t-1),   o_t = scale * S_t^T q_t

    Args:
        q, k, v: (B, N, H, K or V) or (B, X, Y, Z, H, K or V); k of length 1 per head, or the state may grow.
        g: log decay <= 0, (B, N, H) or (B, X, Y, Z, H); with K appended one per key channel.
        beta: (B, N, H) or (B, X, Y, Z, H), in [0, 1].
        scale, initial_state, cu_seqlens, traversals, merge, backend: as in `gated_linear_recurrence`.

    Returns:
        output like v and final state (B, H, K, V).

    Source: Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
    """
    return gated_linear_recurrence(
        q, k, v, g, beta, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens,
        traversals=traversals, merge=merge, backend=backend,
    )  # fmt: skip
