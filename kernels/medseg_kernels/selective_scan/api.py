"""What users call: the selective scan on grids, and under the signature that people know from mamba.

The options of `selective_scan` are keyword-only. TorchScript knows no keyword-only arguments: modules that are to be scripted
call `selective_scan_scriptable`, the same function whose options are only by convention given by name. In scripted, traced
and exported models the chunked torch form runs, so that a saved model loads where medseg is not installed; everywhere else
the custom op of op.py runs.
"""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..dispatch import refuse_forward_mode
from ..traversals.curves import traversal_moves
from ..traversals.orders import Traversal
from ..traversals.tables import SEPARATOR
from .checks import check_call
from .chunked import CHUNK_RECORDED, chunked_scan
from .op import run_scan


def _flat(x: Tensor) -> Tensor:
    """(B, X, Y, Z, C) or (B, R, X, Y, Z, C) -> (B, R', N, C). Scriptable."""
    return x.flatten(1, 3).unsqueeze(1) if x.dim() == 5 else x.flatten(2, 4)


def _flat_groups(x: Tensor) -> Tensor:
    """(B, X, Y, Z, S), (B, X, Y, Z, G, S) or (B, R, X, Y, Z, G, S) -> (B, R', N, G, S). Scriptable."""
    if x.dim() == 5:
        return x.flatten(1, 3).unsqueeze(1).unsqueeze(3)
    return x.flatten(1, 3).unsqueeze(1) if x.dim() == 6 else x.flatten(2, 4)


def _row(x: Optional[Tensor], dim: int, work: torch.dtype) -> Optional[Tensor]:
    """Shared or per-traversal parameter -> (R', ...) in the dtype of sums. Scriptable."""
    if x is None:
        return None
    y = x.to(work)
    return y.unsqueeze(0) if y.dim() == dim else y


@torch.jit.unused
def _cached_moves(text: str, grid: List[int], device: torch.device) -> Tensor:
    """Sorting the tokens anew in every call would cost more than the call, and cannot be captured into a CUDA graph."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return traversal_moves(text, grid, device)
    return Traversal.parse(text).moves(grid, device)


def _add_step_write(write: Tensor, step_write: Tensor, traversals: List[str], grid: List[int]) -> Tensor:
    """(B, R', N, G, S) + what the kind of step adds -> (B, R, N, G, S). Scriptable."""
    rows: List[Tensor] = []
    for r in range(len(traversals)):
        added = step_write if step_write.dim() == 2 else step_write[r]
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            moves = traversal_moves(traversals[r], grid, added.device)
        else:
            moves = _cached_moves(traversals[r], grid, added.device)
        rows.append(added.index_select(0, moves))
    return write + torch.stack(rows).unsqueeze(2).to(write.dtype)


def selective_scan_with_state(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    traversals: List[str] = ("raster",),  # type: ignore[assignment]
    merge: str = "sum",
    initial_state: Optional[Tensor] = None,
    backend: Optional[str] = None,
    delta_weight: Optional[Tensor] = None,
    step_write: Optional[Tensor] = None,
    merge_weights: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """`selective_scan` that always returns the outputs and the last states (B, R, C, S); scriptable."""
    if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # type: ignore[attr-defined]
        check_call(
            u, delta, A, B, C, D, z, delta_bias, traversals, merge, initial_state, delta_weight, step_write, merge_weights,
        )  # fmt: skip
    work = torch.float64 if u.dtype == torch.float64 else torch.float32
    grid = [u.shape[-4], u.shape[-3], u.shape[-2]]
    steps = _flat(delta)
    if delta_weight is not None:
        steps = torch.matmul(steps, delta_weight.to(steps.dtype).transpose(-1, -2))
    write = _flat_groups(B)
    if step_write is not None:
        write = _add_step_write(write, step_write, traversals, grid)
    rate, start, weights = A.to(work), initial_state, merge_weights
    rate = rate.unsqueeze(0) if rate.dim() == 2 else rate
    if start is not None:
        start = (start.unsqueeze(1) if start.dim() == 3 else start).to(work)
    if weights is not None:
        weights = (weights.unsqueeze(1).expand(-1, u.shape[-1]) if weights.dim() == 1 else weights).to(work)
    gate = None if z is None else z.flatten(1, 3)
    skip, bias = _row(D, 1, work), _row(delta_bias, 1, work)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        out, last, _ = chunked_scan(
            _flat(u), steps, rate, write, _flat_groups(C), skip, gate, bias, start, weights, grid, traversals,
            delta_softplus, merge,
        )  # fmt: skip
    else:
        out, last = _eager(
            [_flat(u), steps, rate, write, _flat_groups(C), skip, gate, bias, start, weights], grid, traversals,
            delta_softplus, merge, backend,
        )  # fmt: skip
    return out.view(out.shape[0], grid[0], grid[1], grid[2], out.shape[2]), last


@torch.jit.unused
def _eager(
    flat: List[Optional[Tensor]], grid: List[int], traversals: List[str], delta_softplus: bool, merge: str, backend: Optional[str]
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """The op, or the chunked form where a graph without the op is being recorded."""
    names = [Traversal.parse(text).text for text in traversals]
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
        sides = [int(side) for side in grid]
        out, last, _ = chunked_scan(*flat, sides, names, delta_softplus, merge, CHUNK_RECORDED)  # type: ignore
        return out, last
    refuse_forward_mode("selective_scan", *flat)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in flat)
    out, last, _ = run_scan(*flat, grid, SEPARATOR.join(names), delta_softplus, merge, save, backend)  # type: ignore[arg-type]
    return out, last


def selective_scan_scriptable(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    traversals: List[str] = ("raster",),  # type: ignore[assignment]
    merge: str = "sum",
    initial_state: Optional[Tensor] = None,
    backend: Optional[str] = None,
    delta_weight: Optional[Tensor] = None,
    step_write: Optional[Tensor] = None,
    merge_weights: Optional[Tensor] = None,
) -> Tensor:
    """`selective_scan` for modules that are to be scripted: the same outputs, options in a signature TorchScript can read."""
    return selective_scan_with_state(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, traversals=traversals, merge=merge,
        initial_state=initial_state, backend=backend, delta_weight=delta_weight, step_write=step_write,
        merge_weights=merge_weights,
    )[0]  # fmt: skip


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    *,
    delta_softplus: bool = False,
    traversals: Sequence[str] = ("raster",),
    merge: str = "sum",
    initial_state: Optional[Tensor] = None,
    return_last_state: bool = False,
    backend: Optional[str] = None,
    delta_weight: Optional[Tensor] = None,
    step_write: Optional[Tensor] = None,
    merge_weights: Optional[Tensor] = None,
) -> Tensor:
    """Scan a 3D grid of tokens in one or several orders, each channel with S states that fade and take in tokens.

        delta_t = softplus(delta + delta_bias)                       (both parts optional)
        h_t     = exp(delta_t A) h_(t-1) + delta_t B_t u_t           per channel and state, in the order of a traversal
        y_t     = C_t . h_t + D u_t
        out     = merge over traversals of y, times silu(z)

    R is the number of traversals; what a traversal has of its own carries an axis of length R, after the batch axis or
    first. Volumes may be any view with neighbouring channels side by side; none is ever copied or permuted.

    Args:
        u: (B, X, Y, Z, C), or (B, R, X, Y, Z, C) per traversal. 2D: one axis of length 1.
        delta: the same forms; or, with `delta_weight`, its low-rank factor with K in the place of C.
        A: (C, S) or (R, C, S), negative for a state that fades; kept in float32.
        B: (B, X, Y, Z, S), (B, X, Y, Z, G, S) with G groups of C/G channels, or (B, R, X, Y, Z, G, S).
        C: as B; its G may differ.
        D: (C,) or (R, C), the skip, or None.
        z: (B, X, Y, Z, C), the gate before its SiLU, or None. With `concat` every traversal's part is gated by it.
        delta_bias: (C,) or (R, C), added to delta.
        delta_softplus: apply softplus to delta after its bias.
        traversals: R texts, see traversals/orders.py.
        merge: sum, mean, concat (R*C channels) or weights.
        initial_state: (B, R, C, S), or (B, C, S) for one traversal: the state before the first step, and before the
            first step of every window of a `windowed` traversal.
        return_last_state: also return the states (B, R, C, S) after the last step, in float32.
        backend: triton, cpu or reference; None takes the first that can run (see `explain_backend`).
        delta_weight: (C, K) or (R, C, K).
        step_write: (7, S) or (R, 7, S), added to B by the direction of the step to a token (Traversal.moves; PlainMamba).
        merge_weights: (R,) or (R, C), for merge="weights".

    Returns:
        (B, X, Y, Z, C), or R*C channels for `concat`, in the dtype of u; with return_last_state a pair.

    Raises:
        ValueError: an argument of a wrong rank, size, dtype or device; it names the argument, found and expected.
        BackendError: the backend asked for cannot run; it says why.

    Example:
        >>> u = torch.ones(1, 1, 1, 3, 1)
        >>> A, B = torch.zeros(1, 1), torch.ones(1, 1, 1, 3, 1)
        >>> selective_scan(u, u, A, B, B, traversals=["raster"]).flatten().tolist()
        [1.0, 2.0, 3.0]

    In TorchScript: `selective_scan_scriptable`, or `selective_scan_with_state` for the last states.

    Source: Gu and Dao 2023 (Mamba); several orders: Liu et al. 2024 (VMamba), Xing et al. 2024 (SegMamba).
    """
    out, last = selective_scan_with_state(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, traversals=traversals,  # type: ignore[arg-type]
        merge=merge, initial_state=initial_state, backend=backend, delta_weight=delta_weight, step_write=step_write,
        merge_weights=merge_weights,
    )  # fmt: skip
    return (out, last) if return_last_state else out  # type: ignore[return-value]


def _tokens_last(x: Tensor, batch: int, length: int) -> Tensor:
    """(D, S), (B, S, L) or (B, G, S, L) -> (B, L, 1, 1, G, S) without a copy. Scriptable."""
    if x.dim() == 2:
        return x.view(1, 1, 1, 1, x.shape[0], x.shape[1]).expand(batch, length, 1, 1, -1, -1)
    if x.dim() == 3:
        x = x.unsqueeze(1)
    return x.permute(0, 3, 1, 2).unsqueeze(2).unsqueeze(2)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor:
    """The selective scan of a sequence under the signature and semantics known from mamba, for code and weights from there.

    Args:
        u: (B, D, L).
        delta: (B, D, L).
        A: (D, S), real.
        B: (D, S) constant, (B, S, L) or (B, G, S, L).
        C: as B.
        D: (D,) or None.
        z: (B, D, L) or None.
        delta_bias: (D,) or None.
        delta_softplus: apply softplus to delta after its bias.
        return_last_state: also return the state (B, D, S) after the last step; unlike there, its gradient counts.

    Returns:
        (B, D, L) in the dtype of u; with return_last_state a pair.

    Raises:
        ValueError: as `selective_scan`.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check_sequence(u, delta, B, C, z)
    batch, length = u.shape[0], u.shape[2]
    # channels last is what the kernels read; a caller that already has (B, L, D) tensors pays no copy here
    view = [batch, length, 1, 1, u.shape[1]]
    gate = None if z is None else z.transpose(1, 2).contiguous().view(view)
    out, last = selective_scan_with_state(
        u.transpose(1, 2).contiguous().view(view), delta.transpose(1, 2).contiguous().view(view), A,
        _tokens_last(B, batch, length), _tokens_last(C, batch, length), D, gate, delta_bias,
        delta_softplus=delta_softplus, traversals=["raster"],
    )  # fmt: skip
    out = out.view(batch, length, -1).transpose(1, 2)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        assert not return_last_state, "selective_scan_fn: in TorchScript call selective_scan_with_state"
        return out
    else:
        return (out, last[:, 0]) if return_last_state else out  # type: ignore[return-value]


def _check_sequence(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Optional[Tensor]) -> None:
    if u.dim() != 3:
        raise ValueError(f"selective_scan_fn: u: found {tuple(u.shape)}, expected (B, D, L)")
    for name, x in (("delta", delta), ("z", z)):
        if x is not None and x.shape != u.shape:
            raise ValueError(f"selective_scan_fn: {name}: found {tuple(x.shape)}, expected {tuple(u.shape)}")
    for name, x in (("B", B), ("C", C)):
        if x.is_complex():
            raise ValueError(f"selective_scan_fn: {name}: found {x.dtype}, expected a real tensor")
        if x.dim() not in (2, 3, 4):
            raise ValueError(
                f"selective_scan_fn: {name}: found {tuple(x.shape)}, expected (D, S), (B, S, L) or (B, G, S, L)"
            )
