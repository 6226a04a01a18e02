"""The whole family as one function; members.py and mlstm.py give its members the papers' names."""

from __future__ import annotations

from typing import List, Optional, Tuple

from torch import Tensor

from .run import flat, run_visits, unflat


def gated_linear_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    input_gate: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    cu_seqlens: Optional[Tensor] = None,
    traversals: Optional[List[str]] = None,
    merge: str = "sum",
    backend: Optional[str] = None,
) -> Tuple[Tensor, Tensor]:
    """The whole family: any decay, with or without the delta rule, in time and memory linear in the number of tokens.

        S_t = exp(g_t) * S_(t-1) + i_t k_t v_t^T                                      without beta
        S_t = D + beta_t k_t (v_t - D^T k_t)^T,  D = exp(g_t) * S_(t-1)               with beta
        o_t = scale * S_t^T q_t

    Args:
        q, k: (B, N, H, K), or (B, X, Y, Z, H, K) for a grid (2D: an axis of length 1).
        v: (B, N, H, V) or (B, X, Y, Z, H, V).
        g: log decay, <= 0: (H,) a constant per head; (B, N, H) or (B, X, Y, Z, H) per head and step; with K appended per
            key channel; None for no decay.
        beta: (B, N, H) or (B, X, Y, Z, H) strength of the delta rule, usually in [0, 1]; None for a plain write.
        input_gate: same shape as beta; weight of a plain write (not together with beta).
        scale: factor of q; 1/sqrt(K) if None.
        initial_state: (B * W, H, K, V), zeros if None; W is the number of pieces, 1 unless cu_seqlens or a windowed
            traversal packs several. With several traversals their states
            stand behind each other on the first axis.
        cu_seqlens: (W + 1,) integers 0 = c_0 <= ... <= c_W = N on any device, best the CPU: N holds W sequences behind each
            other, each with a state of its own. Sequences only.
        traversals: visiting orders of a grid by name (see medseg_kernels.traversals); None is raster order.
            "heads(T; T)" gives each half of the heads an order of its own.
        merge: how R > 1 traversals become one output: "sum", "mean" or "concat" (R * H heads).
        backend: "triton", "cpu" or "reference"; None chooses (MEDSEG_BACKEND in the environment, else the first that runs).

    Returns:
        output like v, in v's dtype; final state like initial_state, in float32 (float64 for float64). Both carry gradients.

    Raises:
        ValueError: shapes, dtypes, devices, cu_seqlens or a positive log decay (see checks.py).
        BackendError: the backend asked for by name cannot run here.

    Example:
        >>> q = k = v = torch.ones(1, 3, 1, 1)
        >>> gated_linear_recurrence(q, k, v, torch.tensor([0.5]).log())[0].flatten().tolist()
        [1.0, 1.5, 1.75]

    Source: Yang et al. 2023 (arXiv 2312.06635) and 2024 (arXiv 2412.06464); see README.md for the algorithm.
    """
    if beta is not None and input_gate is not None:
        raise ValueError(
            "beta and input_gate were both given; expected at most one: with beta the delta rule sets the write"
        )
    delta = beta is not None
    strength = beta if beta is not None else input_gate
    grid = list(q.shape[1:-2])
    output, state = run_visits(
        flat(q, grid, 2), flat(k, grid, 2), flat(v, grid, 2), flat_decay(g, grid), flat_gate(strength, grid),
        scale, initial_state, cu_seqlens, grid, traversals, merge, delta, backend,
    )  # fmt: skip
    return unflat(output, grid), state


def flat_decay(g: Optional[Tensor], grid: List[int]) -> Optional[Tensor]:
    """A decay over a grid as one over a sequence; a constant stays."""
    if g is None or g.dim() <= 1:
        return g
    return flat(g, grid, g.dim() - 1 - len(grid))


def flat_gate(gate: Optional[Tensor], grid: List[int]) -> Optional[Tensor]:
    """A gate (B, X, Y, Z, H) as (B, N, H)."""
    return None if gate is None else flat(gate, grid, 1)
