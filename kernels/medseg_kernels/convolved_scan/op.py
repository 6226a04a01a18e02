"""Mamba's inner part as one op: short convolution, projections to step sizes, write and read, scan, gate.

Its gradient needs the input and the states at every 64th step; convolution, projections and step sizes are computed again,
as the fused kernel of mamba does. Made of the family's other ops, each on the backend that it chooses.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..dispatch import refuse_forward_mode
from ..selective_scan.checks import MERGES
from ..selective_scan.chunked import CHECKPOINT
from ..selective_scan.op import run_scan, run_scan_backward, work_dtype
from ..short_conv.op import run_conv, run_conv_backward
from ..straight import straight
from ..traversals.checks import check_traversals
from ..traversals.orders import Traversal
from ..traversals.tables import SEPARATOR, split

MODES = ("causal", "grid")


class _Inner(NamedTuple):
    """What lies between the op's input and its scan, R' = R or 1 axes: convolved (B, R', N, C), mixed (B, R', N, K + 2 S)."""

    convolved: Tensor
    mixed: Tensor
    low: Tensor
    steps: Tensor
    write: Tensor
    read: Tensor


def _inner(
    u: Tensor, taps: Tensor, taps_bias: Optional[Tensor], project: Tensor, expand: Tensor, state: int, layout: Tuple
) -> _Inner:  # type: ignore[type-arg]
    grid, traversals, mode, kernel = layout
    convolved = run_conv(u, taps, taps_bias, grid, traversals, mode, kernel, True, None)
    mixed = torch.matmul(convolved, project.to(convolved.dtype).transpose(-1, -2))
    low, write, read = mixed.split([expand.shape[-1], state, state], dim=-1)
    steps = torch.matmul(low, expand.to(low.dtype).transpose(-1, -2))
    return _Inner(convolved, mixed, low, steps, write.unsqueeze(-2), read.unsqueeze(-2))


@torch.library.custom_op("medseg::convolved_scan", mutates_args=())
def convolved_op(
    u: Tensor,
    taps: Tensor,
    taps_bias: Optional[Tensor],
    project: Tensor,
    expand: Tensor,
    rate: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    grid: Sequence[int],
    traversals: str,
    mode: str,
    kernel: Sequence[int],
    merge: str,
    save: bool,
) -> Tuple[Tensor, Tensor]:
    """Outputs (B, N, C) and kept states (B, R, K, S, C), K = 0 without `save`.

    Args:
        u: (B, N, C), any view with neighbouring channels side by side; z alike.
        taps, taps_bias: as `short_conv`'s op takes them.
        project: (R', K + 2 S, C), to the low-rank step size, write and read.
        expand: (R', C, K), from the low-rank step size to the step size.
        rate, skip, bias: as the scan's op takes them.
    """
    with torch.autocast(u.device.type, enabled=False):
        parts = _inner(u, taps, taps_bias, project, expand, rate.shape[2], (grid, traversals, mode, kernel))
        out, _, kept = run_scan(
            parts.convolved, parts.steps, rate, parts.write, parts.read, skip, z, bias, None, None, grid, traversals, True,
            merge, save, None,
        )  # fmt: skip
    return out, kept


@convolved_op.register_fake
def _(  # type: ignore[no-untyped-def]
    u, taps, taps_bias, project, expand, rate, skip, z, bias, grid, traversals, mode, kernel, merge, save
):
    kept = (u.shape[1] + CHECKPOINT - 1) // CHECKPOINT if save else 0
    shape = (u.shape[0], len(split(traversals)), kept, rate.shape[2], u.shape[2])
    return u.new_empty(u.shape), u.new_empty(shape, dtype=work_dtype(u))


@torch.library.custom_op("medseg::convolved_scan_backward", mutates_args=())
def convolved_backward_op(
    grad: Tensor,
    kept: Tensor,
    u: Tensor,
    taps: Tensor,
    taps_bias: Optional[Tensor],
    project: Tensor,
    expand: Tensor,
    rate: Tensor,
    skip: Optional[Tensor],
    z: Optional[Tensor],
    bias: Optional[Tensor],
    grid: Sequence[int],
    traversals: str,
    mode: str,
    kernel: Sequence[int],
    merge: str,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the nine tensors in their dtypes; empty ones stand for arguments that were None."""
    layout = (grid, traversals, mode, kernel)
    with torch.autocast(u.device.type, enabled=False):
        parts = _inner(u, taps, taps_bias, project, expand, rate.shape[2], layout)
        last = kept.new_zeros(kept.shape[0], kept.shape[1], kept.shape[4], kept.shape[3])
        to_convolved, to_steps, to_rate, to_write, to_read, to_skip, to_z, to_bias, *_ = run_scan_backward(
            grad, last, parts.convolved, parts.steps, rate, parts.write, parts.read, skip, z, bias, None, None, kept, grid,
            traversals, True, merge, None,
        )  # fmt: skip
        to_low = torch.matmul(to_steps, expand.to(to_steps.dtype))
        to_expand = torch.matmul(to_steps.transpose(-1, -2), parts.low).sum_to_size(1, *expand.shape)
        to_mixed = torch.cat([to_low, to_write.squeeze(-2), to_read.squeeze(-2)], dim=-1)
        del to_steps, to_low, to_write, to_read
        to_project = torch.matmul(to_mixed.transpose(-1, -2), parts.convolved).sum_to_size(1, *project.shape)
        through = torch.matmul(to_mixed, project.to(to_mixed.dtype))
        to_convolved = to_convolved.add_(through.sum_to_size(to_convolved.shape))
        to_u, to_taps, to_taps_bias = run_conv_backward(to_convolved, u, taps, taps_bias, *layout, True, None)
    found = (
        to_u, to_taps, to_taps_bias, to_project[0].to(project.dtype), to_expand[0].to(expand.dtype), to_rate, to_skip, to_z,
        to_bias,
    )  # fmt: skip
    return tuple(u.new_empty(0) if one is None else one for one in found)  # type: ignore[return-value]


@convolved_backward_op.register_fake
def _(grad, kept, u, taps, taps_bias, project, expand, rate, skip, z, bias, *settings):  # type: ignore[no-untyped-def]
    given = (u, taps, taps_bias, project, expand, rate, skip, z, bias)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.grid, ctx.traversals, ctx.mode, ctx.kernel, ctx.merge, saved = inputs
    if saved:
        ctx.save_for_backward(output[1], *tensors)


def _backward(ctx, grad: Tensor, grad_kept: Optional[Tensor]):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # read once: checkpointing gives them away once
    if len(saved) == 0:
        raise RuntimeError("convolved_scan: a gradient is asked for, but the forward ran with save=False")
    kept, *tensors = saved
    grads = run_convolved_backward(grad, kept, *tensors, ctx.grid, ctx.traversals, ctx.mode, ctx.kernel, ctx.merge)
    return (*(None if x is None else g for g, x in zip(grads, tensors, strict=True)), *([None] * 6))


convolved_op.register_autograd(_backward, setup_context=_save)
# what a caller without a compiler runs; see straight.py
run_convolved, run_convolved_backward = straight(convolved_op, _save, _backward), straight(convolved_backward_op)


def _wrong(argument: str, found: object, expected: object) -> ValueError:
    return ValueError(f"convolved_scan: {argument}: found {found}, expected {expected}")


def convolved_scan(
    u: Tensor,
    z: Optional[Tensor],
    taps: Tensor,
    taps_bias: Optional[Tensor],
    project: Tensor,
    expand: Tensor,
    A: Tensor,
    D: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    *,
    mode: str = "causal",
    traversals: Sequence[str] = ("raster",),
    merge: str = "sum",
) -> Tensor:
    """`short_conv` with SiLU, three linear maps and `selective_scan` in one, of which only the input is kept for gradients.

        v = silu(short_conv(u)),  [low, B, C] = project v,  out = selective_scan(v, expand low, A, B, C, D, z)

    The same numbers as the parts, for eager and compiled code; what is scripted, traced or exported calls the parts.
    What a traversal has of its own carries a first axis of R, else 1.

    Args:
        u: (B, X, Y, Z, C), any view with neighbouring channels side by side.
        z: as u, the gate before its SiLU, or None.
        taps: (R or 1, C, T) in mode `causal`, (C, kx, ky, kz) in mode `grid`.
        taps_bias: (R or 1, C) or (C,), or None.
        project: (R or 1, K + 2 S, C).
        expand: (R or 1, C, K).
        A: (R or 1, C, S), negative for a state that fades.
        D: (R or 1, C), or None.
        delta_bias: (R or 1, C), or None; softplus follows.
        mode: `causal` or `grid`, see `short_conv`.
        traversals: R texts, see traversals/orders.py.
        merge: sum or mean.

    Returns:
        (B, X, Y, Z, C) in the dtype of u.

    Raises:
        ValueError: an argument of a wrong rank, size, dtype or device; it names the argument, found and expected.

    Source: Gu and Dao 2023 (Mamba), section 3.3.2: what is not kept is computed again.
    """
    count, channels = len(traversals), u.shape[-1] if u.dim() > 0 else 0
    given = {"u": u, "z": z, "taps": taps, "taps_bias": taps_bias, "project": project, "expand": expand, "A": A, "D": D}
    _check({**given, "delta_bias": delta_bias}, mode, count)
    check_traversals(traversals, channels)
    if merge not in MERGES[:2]:
        raise _wrong("merge", repr(merge), " or ".join(MERGES[:2]))
    grid = [u.shape[1], u.shape[2], u.shape[3]]
    if mode == "grid":
        kernel, filters = list(taps.shape[1:]), taps.flatten(1).unsqueeze(0)
        offset = None if taps_bias is None else taps_bias.unsqueeze(0)
    else:
        kernel, filters = [taps.shape[-1]], taps.expand(count, -1, -1)
        offset = None if taps_bias is None else taps_bias.expand(count, -1)
    work = work_dtype(u)
    rows = [None if x is None else x.to(work) for x in (D, delta_bias)]
    gate = None if z is None else z.flatten(1, 3)
    tensors = (u.flatten(1, 3), filters, offset, project, expand, A.to(work), rows[0], gate, rows[1])
    refuse_forward_mode("convolved_scan", *tensors)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    names = SEPARATOR.join(Traversal.parse(text).text for text in traversals)
    out, _ = run_convolved(*tensors, grid, names, mode, kernel, merge, save)
    return out.view(u.shape[0], *grid, channels)


def _check(given: dict[str, Optional[Tensor]], mode: str, count: int) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: the argument, what was found, what was expected.
    """
    present = {name: tensor for name, tensor in given.items() if tensor is not None}
    u = present["u"]
    for name, tensor in present.items():
        if not tensor.is_floating_point():
            raise _wrong(name, tensor.dtype, "a floating-point tensor")
        if tensor.device != u.device:
            raise _wrong(name, f"device {tensor.device}", f"{u.device}, where u is")
    if u.dim() != 5 or any(side == 0 for side in u.shape):
        raise _wrong("u", tuple(u.shape), "(B, X, Y, Z, C) with no empty axis")
    if "z" in present and present["z"].shape != u.shape:
        raise _wrong("z", tuple(present["z"].shape), tuple(u.shape))
    if mode not in MODES:
        raise _wrong("mode", repr(mode), " or ".join(MODES))
    for name in ("expand", "A", "taps"):
        if present[name].dim() == 0 or 0 in present[name].shape:
            raise _wrong(name, tuple(present[name].shape), "no empty axis")
    channels, rank, state = u.shape[-1], present["expand"].shape[-1], present["A"].shape[-1]
    wanted: dict[str, tuple[int, ...]] = {
        "project": (rank + 2 * state, channels),
        "expand": (channels, rank),
        "A": (channels, state),
    }
    wanted |= {"D": (channels,), "delta_bias": (channels,)}
    taps, offset = present["taps"], present.get("taps_bias")
    if mode == "causal":
        wanted["taps"] = (channels, taps.shape[-1])
    elif taps.dim() != 4 or taps.shape[0] != channels:
        raise _wrong("taps", tuple(taps.shape), f"({channels}, kx, ky, kz)")
    for name, shape in wanted.items():
        if name in present and tuple(present[name].shape) not in [(rows, *shape) for rows in (1, count)]:
            raise _wrong(name, tuple(present[name].shape), f"(1 or {count}, {', '.join(map(str, shape))})")
    rows = (1, count) if mode == "causal" else ()
    if offset is not None and tuple(offset.shape) not in [(channels,), *((row, channels) for row in rows)]:
        raise _wrong(
            "taps_bias", tuple(offset.shape), f"({channels},)" + f" or (1 or {count}, {channels})" * bool(rows)
        )
