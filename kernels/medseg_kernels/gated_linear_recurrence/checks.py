"""What a call must look like. Every refusal names the argument, what was found and what was expected."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Dict, List, Optional

import torch
from torch import Tensor

from ..prepared import once

# When set to 1, inputs are searched for NaN and infinity: a full read of each, and a wait for the GPU.
DEBUG = "MEDSEG_KERNELS_DEBUG"


@once
def check_shapes(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], states: Optional[Tensor], pieces: int
) -> None:
    """Ranks, sizes, dtypes and devices of flattened arguments.

    Args:
        q, k, v: (B, N, H, K), (B, N, H, K), (B, N, H, V).
        g: (H,), (B, N, H), (B, N, H, K) or None.
        beta: (B, N, H) or None.
        states: (B * pieces, H, K, V) or None.
        pieces: number of packed pieces per sample.

    Raises:
        ValueError: anything else.
    """
    if q.dim() != 4:
        raise ValueError(f"q has shape {list(q.shape)}; expected (B, N, H, K), or (B, X, Y, Z, H, K) for a grid")
    size_b, size_n, size_h, size_k = q.shape
    if k.shape != q.shape:
        raise ValueError(f"k has shape {list(k.shape)}; expected that of q, {list(q.shape)}")
    if v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v has shape {list(v.shape)}; expected {[size_b, size_n, size_h]} as q, then V")
    if g is not None:
        allowed = [[size_h], [size_b, size_n, size_h], [size_b, size_n, size_h, size_k]]
        if list(g.shape) not in allowed:
            raise ValueError(f"g (log decay) has shape {list(g.shape)}; expected one of {allowed}")
    if beta is not None and beta.shape != q.shape[:3]:
        raise ValueError(f"beta has shape {list(beta.shape)}; expected {[size_b, size_n, size_h]}")
    if states is not None:
        expected = [size_b * pieces, size_h, size_k, v.shape[3]]
        if list(states.shape) != expected:
            raise ValueError(
                f"initial_state has shape {list(states.shape)}; expected (B * pieces, H, K, V) = {expected}"
            )
    if size_k == 0 or v.shape[3] == 0 or size_h == 0:
        raise ValueError(f"q has shape {list(q.shape)} and v {list(v.shape)}; heads and channels must not be empty")
    _check_kinds(q, k, v, g, beta, states)


def _check_kinds(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], states: Optional[Tensor]
) -> None:
    _check_kind("q", q, q)
    _check_kind("k", k, q)
    _check_kind("v", v, q)
    if g is not None:
        _check_kind("g", g, q)
    if beta is not None:
        _check_kind("beta", beta, q)
    if states is not None:
        _check_kind("initial_state", states, q)


def _check_kind(name: str, x: Tensor, q: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; expected a floating type")
    if x.device != q.device:
        raise ValueError(f"{name} is on {x.device}; expected the device of q, {q.device}")


def check_kinds(named: Dict[str, Optional[Tensor]]) -> None:
    """All of a floating type, where the first one is: members of the family check their arguments under the papers' names.

    Raises:
        ValueError: the argument, what was found, what was expected.
    """
    first: Optional[Tensor] = None
    name_of_first = ""
    for name, x in named.items():
        if x is None:
            continue
        if first is None:
            first, name_of_first = x, name
        if not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating type")
        if x.device != first.device:
            raise ValueError(f"{name} is on {x.device}; expected the device of {name_of_first}, {first.device}")


def check_shape(name: str, x: Tensor, *expected: Sequence[int]) -> None:
    """One of the shapes.

    Raises:
        ValueError: the argument, what was found, what was expected.
    """
    allowed = [list(shape) for shape in expected]
    if list(x.shape) not in allowed:
        raise ValueError(f"{name} has shape {list(x.shape)}; expected {' or '.join(map(str, allowed))}")


def check_bounds(cu_seqlens: Optional[Tensor]) -> None:
    """Integers in a row; `check_pieces` looks at their values.

    Raises:
        ValueError: another rank or dtype.
    """
    if cu_seqlens is None:
        return
    if cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        found = f"{list(cu_seqlens.shape)} {cu_seqlens.dtype}"
        raise ValueError(f"cu_seqlens is {found}; expected (W + 1,) numbers in an int32 or int64 tensor")


def check_pieces(pieces: Optional[List[int]], size_n: int) -> None:
    """Bounds of packed pieces: 0 first, N last, never falling.

    Raises:
        ValueError: anything else.
    """
    if pieces is None:
        return
    rising = all(left <= right for left, right in itertools.pairwise(pieces))
    if len(pieces) < 2 or pieces[0] != 0 or pieces[-1] != size_n or not rising:
        shown = pieces if len(pieces) <= 8 else [*pieces[:4], "...", *pieces[-3:]]
        raise ValueError(f"cu_seqlens is {shown}; expected numbers that start at 0, never fall and end at N = {size_n}")


def check_values(
    q: Tensor, k: Tensor, v: Tensor, g: Optional[Tensor], beta: Optional[Tensor], initial_state: Optional[Tensor]
) -> None:
    """What shapes cannot tell: a log decay is never positive, and under MEDSEG_KERNELS_DEBUG=1 everything is finite.

    The decay is looked at on a CPU always, on a GPU under the switch only, since looking means waiting for it.

    Raises:
        ValueError: a positive log decay or, under the switch, a NaN or infinity.
    """
    debug = os.environ.get(DEBUG, "0") == "1"
    if debug:
        named = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "initial_state": initial_state}
        for name, x in named.items():
            if x is not None and not bool(torch.isfinite(x).all()):
                bad = int((~torch.isfinite(x)).sum())
                raise ValueError(
                    f"{name} holds {bad} values of {x.numel()} that are NaN or infinite; expected finite numbers ({DEBUG}=1)"
                )
    if g is not None and g.numel() > 0 and (debug or g.device.type == "cpu"):
        highest = float(g.max())
        if highest > 0:
            raise ValueError(
                f"g (log decay) reaches {highest:g}; expected values <= 0, the logarithm of a decay in (0, 1]. "
                "Give the logarithm, for example logsigmoid(x) or -exp(a) * softplus(x)."
            )
