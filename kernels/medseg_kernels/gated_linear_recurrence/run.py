"""From a user's arguments to the op: grids, traversals and their merging, autocast, and the portable path.

TorchScript, tracing and export run the chunked torch form, so that what they write loads where nothing of this package is.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ..dispatch import refuse_forward_mode
from ..traversals.orders import Traversal
from .checks import check_bounds, check_shapes
from .chunked import chunkwise
from .op import run_recurrence
from .visits import piece_count, visit


def flat(x: Tensor, grid: List[int], trailing: int) -> Tensor:
    """(B, *grid, ...) -> (B, N, ...); a view where the memory allows.

    Args:
        x: tensor over the grid.
        grid: (N,) or (X, Y, Z).
        trailing: axes behind the grid.
    """
    if x.dim() != 1 + len(grid) + trailing:
        raise ValueError(
            f"an argument has shape {list(x.shape)}; expected B, the grid of q {grid}, then {trailing} axes"
        )
    return x if len(grid) == 1 else x.flatten(1, len(grid))


def unflat(x: Tensor, grid: List[int]) -> Tensor:
    """(B, N, H, V) -> (B, *grid, H, V)."""
    return x if len(grid) == 1 else x.unflatten(1, grid)


def texts_of(traversals: Optional[List[str]], grid: List[int], cu_seqlens: Optional[Tensor], merge: str) -> List[str]:
    """The traversals to run, "" for a plain sequence, after checking that they fit the grid.

    Raises:
        ValueError: a grid that is not 3D, a traversal or a merge that does not exist, or one that makes no sense here.
    """
    if merge not in ("sum", "mean", "concat"):
        raise ValueError(f"merge is {merge}; expected sum, mean or concat")
    if len(grid) == 1:
        if traversals is not None:
            raise ValueError(
                f"traversals {traversals} were given for a sequence; expected a grid, q of shape (B, X, Y, Z, H, K)"
            )
        return [""]
    if len(grid) != 3:
        raise ValueError(
            f"q lies on a grid of {len(grid)} axes; expected 3 (give 2D an axis of length 1), or (B, N, H, K)"
        )
    if cu_seqlens is not None:
        raise ValueError(
            "cu_seqlens was given for a grid; expected a windowed traversal there, or sequences (B, N, H, K)"
        )
    if traversals is None:
        return ["raster"]
    if len(traversals) == 0:
        raise ValueError("traversals is empty; expected at least one")
    return known(traversals)


def known(traversals: List[str]) -> List[str]:
    """The same texts in their normal form; compiled and scripted code takes them as checked."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return traversals
    else:
        return _parse(traversals)


@torch.jit.unused
def _parse(traversals: List[str]) -> List[str]:
    if torch.compiler.is_compiling():
        return list(traversals)
    return [Traversal.parse(text).text for text in traversals]


def run_visits(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    scale: Optional[float],
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    traversals: Optional[List[str]],
    merge: str,
    delta: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor]:
    """Run the recurrence once per traversal and merge. Arguments as in `gated_linear_recurrence`, flattened to (B, N, ...)."""
    outputs: List[Tensor] = []
    states: List[Tensor] = []
    texts = texts_of(traversals, grid, cu_seqlens, merge)
    done = 0
    for r in range(len(texts)):
        start = initial_state
        if start is not None and len(texts) > 1:
            count = q.shape[0] * piece_count(texts[r], grid)
            start = start[done : done + count]
            done += count
        output, state = run_once(q, k, v, g, beta, scale, start, cu_seqlens, grid, texts[r], delta, backend)
        outputs.append(output)
        states.append(state)
    return merge_outputs(outputs, merge), states[0] if len(states) == 1 else torch.cat(states)


def merge_outputs(outputs: List[Tensor], merge: str) -> Tensor:
    """R outputs (B, N, H, V) as one: their sum, their mean, or side by side on the axis of heads."""
    if len(outputs) == 1:
        return outputs[0]
    if merge == "concat":
        return torch.cat(outputs, 2)
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total / len(outputs) if merge == "mean" else total


def run_once(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    scale: Optional[float],
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    text: str,
    delta: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor]:
    """One traversal: the op in eager and compiled code, the chunked torch form where a graph is written to a file."""
    factor = max(q.shape[-1], 1) ** -0.5 if scale is None else scale
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return portable(q, k, v, g, beta, factor, initial_state, cu_seqlens, grid, text, delta)
    else:
        return eager(q, k, v, g, beta, factor, initial_state, cu_seqlens, grid, text, delta, backend)


def portable(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    scale: float,
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    text: str,
    delta: bool,
) -> Tuple[Tensor, Tensor]:
    """The chunked torch form behind the op's arguments."""
    order, bounds = visit(text, grid, q.device)
    if cu_seqlens is not None:
        listed: List[int] = cu_seqlens.tolist()
        bounds = listed
    return chunkwise(q, k, v, g, beta, scale, initial_state, order, bounds, delta)


@torch.jit.unused
def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    scale: float,
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
    grid: List[int],
    text: str,
    delta: bool,
    backend: Optional[str],
) -> Tuple[Tensor, Tensor]:
    """The op, or the portable form while a graph is traced or exported."""
    check_bounds(cu_seqlens)
    count = piece_count(text, grid) if cu_seqlens is None else cu_seqlens.shape[0] - 1
    check_shapes(q, k, v, g, beta, initial_state, count)
    q, k, v = common_dtype(q, k, v)
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
        return portable(q, k, v, g, beta, scale, initial_state, cu_seqlens, grid, text, delta)
    refuse_forward_mode("gated_linear_recurrence", q, k, v, g, beta, initial_state)
    return run_recurrence(q, k, v, g, beta, initial_state, cu_seqlens, grid, text, scale, delta, backend)


def common_dtype(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """q, k and v in autocast's dtype, or promoted to a common one; decays, gates and states stay as they are."""
    kind = q.device.type
    if torch.is_autocast_enabled(kind) and v.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    else:
        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return q.to(dtype), k.to(dtype), v.to(dtype)
