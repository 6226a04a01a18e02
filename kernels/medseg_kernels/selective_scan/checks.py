"""What a call of the selective scan may look like; every refusal names the argument, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from torch import Tensor

from ..prepared import once
from ..traversals.checks import check_traversals, wrong
from ..traversals.orders import Traversal

MERGES = ("sum", "mean", "concat", "weights")
MOVES = 7  # kinds of steps, see traversal_moves


def _same(found: Sequence[int], *expected: Sequence[int]) -> bool:
    """Whether a shape is one of those expected; sizes may be symbols of a compiler, so they are compared one by one."""
    return any(len(found) == len(e) and all(a == b for a, b in zip(found, e, strict=True)) for e in expected)


def check_merge(merge: str, weights: Optional[Tensor], count: int, channels: int) -> None:
    """A known merge, with weights exactly when it is `weights`.

    Raises:
        ValueError: what is wrong.
    """
    if merge not in MERGES:
        raise wrong("merge", repr(merge), f"one of {', '.join(MERGES)}")
    if (merge == "weights") != (weights is not None):
        raise wrong(
            "merge_weights", f"{type(weights).__name__} with merge={merge!r}", "weights with merge='weights' only"
        )
    if weights is not None and not _same(weights.shape, (count,), (count, channels)):
        raise wrong("merge_weights", tuple(weights.shape), f"({count},) or ({count}, {channels})")


def _check_kinds(tensors: dict[str, Optional[Tensor]], u: Tensor) -> None:
    for name, x in tensors.items():
        if x is not None and not x.is_floating_point():
            raise wrong(name, x.dtype, "a floating-point tensor")
        if x is not None and x.device != u.device:
            raise wrong(name, f"device {x.device}", f"{u.device}, where u is")


def _check_activation(name: str, x: Tensor, count: int, lead: tuple[int, ...], last: int) -> None:
    """(B, X, Y, Z, last) or (B, R, X, Y, Z, last)."""
    each = (lead[0], count, *lead[1:], last)
    if not _same(x.shape, (*lead, last), each):
        raise wrong(name, tuple(x.shape), f"{(*lead, last)} or, per traversal, {each}")


def _check_projection(name: str, x: Tensor, count: int, lead: tuple[int, ...], channels: int, state: int) -> None:
    """(B, X, Y, Z, S), (B, X, Y, Z, G, S) or (B, R, X, Y, Z, G, S)."""
    right = (lead[0], count, *lead[1:]) if x.dim() == 7 else lead
    if x.dim() not in (5, 6, 7) or not _same(x.shape[: len(right)], right) or x.shape[-1] != state:
        forms = "(B, X, Y, Z, S), (B, X, Y, Z, G, S) or (B, R, X, Y, Z, G, S)"
        raise wrong(name, tuple(x.shape), f"{forms} with (B, X, Y, Z) = {lead}, R = {count}, S = {state}")
    if x.dim() > 5 and (x.shape[-2] == 0 or channels % x.shape[-2] != 0):
        raise wrong(name, f"{x.shape[-2]} groups", f"a divisor of {channels} channels")


def _check_row(name: str, x: Optional[Tensor], count: int, shape: tuple[int, ...]) -> None:
    """shape or (R, *shape)."""
    if x is not None and not _same(x.shape, shape, (count, *shape)):
        raise wrong(name, tuple(x.shape), f"{shape} or, per traversal, {(count, *shape)}")


def _check_u(u: Tensor, count: int) -> tuple[int, int, int, int]:
    """Axes B, X, Y, Z of u."""
    if u.dim() not in (5, 6) or (u.dim() == 6 and u.shape[1] != count):
        raise wrong("u", tuple(u.shape), f"(B, X, Y, Z, C) or, with R = {count} traversals, (B, R, X, Y, Z, C)")
    if any(side == 0 for side in u.shape):
        raise wrong("u", tuple(u.shape), "no empty axis")
    size_b, size_x, size_y, size_z = u.shape[0], u.shape[-4], u.shape[-3], u.shape[-2]
    if size_x * size_y * size_z >= 2**31:
        raise wrong("u", f"{size_x * size_y * size_z} tokens", "fewer than 2**31 tokens")
    return size_b, size_x, size_y, size_z


def _check_initial_state(x: Tensor, batch: int, count: int, channels: int, state: int) -> None:
    whole = (batch, count, channels, state)
    if not (_same(x.shape, whole) or (count == 1 and _same(x.shape, (batch, channels, state)))):
        raise wrong("initial_state", tuple(x.shape), whole)


@once
def check_call(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], z: Optional[Tensor],
    delta_bias: Optional[Tensor], traversals: Sequence[str], merge: str, initial_state: Optional[Tensor],
    delta_weight: Optional[Tensor], step_write: Optional[Tensor], merge_weights: Optional[Tensor],
) -> None:  # fmt: skip
    """Refuse a call of `selective_scan` that cannot be meant.

    Raises:
        ValueError: the argument, what was found, what was expected.
    """
    named = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias,
        "initial_state": initial_state, "delta_weight": delta_weight, "step_write": step_write, "merge_weights": merge_weights,
    }  # fmt: skip
    _check_kinds(named, u)
    count, channels = len(traversals), u.shape[-1]
    lead = _check_u(u, count)
    check_traversals(traversals, channels)
    check_merge(merge, merge_weights, count, channels)
    if A.dim() not in (2, 3) or A.shape[-1] == 0:
        raise wrong("A", tuple(A.shape), f"({channels}, S) or ({count}, {channels}, S) with S >= 1")
    state = A.shape[-1]
    _check_row("A", A, count, (channels, state))
    _check_row("D", D, count, (channels,))
    _check_row("delta_bias", delta_bias, count, (channels,))
    rank = channels if delta_weight is None else delta_weight.shape[-1]
    _check_activation("delta", delta, count, lead, rank)
    _check_row("delta_weight", delta_weight, count, (channels, rank))
    _check_row("step_write", step_write, count, (MOVES, state))
    if step_write is not None and any(len(Traversal.parse(text).heads) > 1 for text in traversals):
        raise wrong("step_write", f"given with {list(traversals)}", "traversals without heads")
    _check_projection("B", B, count, lead, channels, state)
    _check_projection("C", C, count, lead, channels, state)
    if z is not None and not _same(z.shape, (*lead, channels)):
        raise wrong("z", tuple(z.shape), (*lead, channels))
    if initial_state is not None:
        _check_initial_state(initial_state, lead[0], count, channels, state)
