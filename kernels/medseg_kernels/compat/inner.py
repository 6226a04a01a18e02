"""mamba_ssm's inner functions: convolution, projections, scan and gate of one or several directions.

Everything runs on (B, L, D) tensors: what published code flips, chunks and stacks into copies is an order of visit here.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ..convolved_scan.op import convolved_scan
from ..selective_scan.api import selective_scan
from ..short_conv.api import short_conv
from .options import refuse_unknown
from .sequence_scan import _refuse_complex


class Direction(NamedTuple):
    """What one direction of a Mamba block has of its own; K rank of the step size, W taps, D channels, S states."""

    conv_weight: Tensor  # (D, 1, W)
    conv_bias: Optional[Tensor]  # (D,)
    x_proj: Tensor  # (K + 2 S, D)
    dt_proj: Tensor  # (D, K)
    A: Tensor  # (D, S)
    D: Optional[Tensor]  # (D,)
    dt_bias: Optional[Tensor]  # (D,)


def scan_directions(
    x: Tensor, z: Tensor, directions: Sequence[Direction], traversals: Sequence[str], slices: int = 1
) -> Tensor:
    """Convolve, project and scan (B, L, D) along every direction; their sum, times silu(z).

    Args:
        x: (B, L, D); z alike.
        directions: R records.
        traversals: R texts over the grid (slices, L / slices, 1).
        slices: how many slices the sequence has.
    """
    shape = (slices, x.shape[1] // slices, 1)
    u, gate = (t.unflatten(1, shape) for t in (x, z))
    taps, project, expand, rate = (
        torch.stack(column)
        for column in (
            [d.conv_weight[:, 0] for d in directions], [d.x_proj for d in directions],
            [d.dt_proj for d in directions], [d.A for d in directions],
        )
    )  # fmt: skip
    taps_bias, skip, bias = (_stacked([getattr(d, name) for d in directions]) for name in ("conv_bias", "D", "dt_bias"))
    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):  # type: ignore[attr-defined]
        return convolved_scan(
            u, gate, taps, taps_bias, project, expand, rate, skip, bias, traversals=traversals
        ).flatten(1, 3)
    v = short_conv(u, taps, taps_bias, traversals=list(traversals), silu=True)
    mixed = torch.einsum("brxyzi,roi->brxyzo", v, project.to(v.dtype))
    low, write, read = mixed.split([expand.shape[2], rate.shape[2], rate.shape[2]], -1)
    out = selective_scan(
        v, low, rate, write.unsqueeze(-2), read.unsqueeze(-2), skip, gate, bias, delta_softplus=True,
        traversals=traversals, delta_weight=expand,
    )  # fmt: skip
    return out.flatten(1, 3)


def _stacked(rows: List[Optional[Tensor]]) -> Optional[Tensor]:
    present = [row for row in rows if row is not None]
    return torch.stack(present) if present else None


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Optional[Tensor],
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Optional[Tensor] = None,
    C: Optional[Tensor] = None,
    D: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    B_proj_bias: Optional[Tensor] = None,
    C_proj_bias: Optional[Tensor] = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    **unknown: object,
) -> Tensor:
    """Mamba's inner part without the projection out: (B, 2 D, L) -> (B, D, L).

    Args:
        xz: (B, 2 D, L), input and gate behind each other.
        conv1d_weight: (D, 1, W); conv1d_bias (D,) or None.
        x_proj_weight: (K + 2 S, D).
        delta_proj_weight: (D, K).
        A: (D, S), real.
        B, C: None (from x_proj_weight), or as `selective_scan_fn`.
        D, delta_bias: (D,) or None.
        B_proj_bias, C_proj_bias: (S,) or None, added to the projected B and C.
        delta_softplus: softplus of the step size after its bias.
        checkpoint_lvl: taken and without effect: what is not kept is computed again, as level 1 does there.

    Raises:
        UnknownOptionError: an option that is not known, among them the norms of B, C and the step size (`b_rms_weight` ...).
    """
    refuse_unknown("mamba_inner_fn", {name: value for name, value in unknown.items() if value is not None})
    _refuse_complex("mamba_inner_fn", A)
    x, z = xz.transpose(1, 2).contiguous().chunk(2, -1)
    plain = B is None and C is None and B_proj_bias is None and C_proj_bias is None
    if plain and delta_softplus:
        direction = Direction(conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias)
        return scan_directions(x, z, [direction], ["raster"]).transpose(1, 2)
    v, low, write, read = _projected(x, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A)
    write = _chosen(write, B, B_proj_bias)
    read = _chosen(read, C, C_proj_bias)
    out = selective_scan(
        v, low, A, write, read, D, z.unflatten(1, (-1, 1, 1)), delta_bias, delta_softplus=delta_softplus,
        delta_weight=delta_proj_weight,
    )  # fmt: skip
    return out.flatten(1, 3).transpose(1, 2)


def _projected(
    x: Tensor, conv_weight: Tensor, conv_bias: Optional[Tensor], x_proj: Tensor, dt_proj: Tensor, A: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, L, D) -> convolved (B, L, 1, 1, D), low-rank step size, write and read."""
    v = short_conv(x.unflatten(1, (-1, 1, 1)), conv_weight[:, 0], conv_bias, silu=True)
    mixed = functional.linear(v, x_proj.to(v.dtype))
    low, write, read = mixed.split([dt_proj.shape[1], A.shape[1], A.shape[1]], -1)
    return v, low, write, read


def _chosen(projected: Tensor, given: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    """(B, L, 1, 1, S) from the projection and its bias, or what was given as (D, S), (B, S, L) or (B, G, S, L)."""
    if given is None:
        return projected if bias is None else projected + bias.to(projected.dtype)
    if given.dim() == 2:
        return given.expand(*projected.shape[:4], -1, -1)
    grouped = given.unsqueeze(1) if given.dim() == 3 else given
    return grouped.permute(0, 3, 1, 2).unflatten(1, (-1, 1, 1))


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Optional[Tensor],
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Optional[Tensor],
    A: Tensor,
    B: Optional[Tensor] = None,
    C: Optional[Tensor] = None,
    D: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    B_proj_bias: Optional[Tensor] = None,
    C_proj_bias: Optional[Tensor] = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    **unknown: object,
) -> Tensor:
    """`mamba_inner_fn_no_out_proj` and the projection out: (B, 2 D, L) -> (B, L, M), with out_proj_weight (M, D)."""
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias, C_proj_bias,
        delta_softplus, checkpoint_lvl, **unknown,
    )  # fmt: skip
    return functional.linear(y.transpose(1, 2), out_proj_weight.to(y.dtype), _like(out_proj_bias, y))


def scan_both_ways(
    x: Tensor,
    z: Tensor,
    shared: Direction,
    A_b: Tensor,
    given: Tuple[Optional[Tensor], Optional[Tensor]] = (None, None),
    biases: Tuple[Optional[Tensor], Optional[Tensor]] = (None, None),
    *,
    delta_softplus: bool = True,
) -> Tensor:
    """(B, L, D) with one convolution and one set of projections, scanned forward with `shared.A` and backward with A_b.

    Args:
        given: B and C, or None for those projected from x.
        biases: of the projected B and C.
    """
    v, low, write, read = _projected(x, *shared[:5])
    write, read = (_chosen(*parts) for parts in zip((write, read), given, biases, strict=True))
    return selective_scan(
        v, low, torch.stack([shared.A, A_b]), write, read, shared.D, z.unflatten(1, (-1, 1, 1)), shared.dt_bias,
        delta_softplus=delta_softplus, traversals=["raster", "reversed raster"], delta_weight=shared.dt_proj,
    ).flatten(1, 3)  # fmt: skip


def _like(x: Optional[Tensor], y: Tensor) -> Optional[Tensor]:
    return None if x is None else x.to(y.dtype)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Optional[Tensor],
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Optional[Tensor],
    A: Tensor,
    A_b: Tensor,
    B: Optional[Tensor] = None,
    C: Optional[Tensor] = None,
    D: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    B_proj_bias: Optional[Tensor] = None,
    C_proj_bias: Optional[Tensor] = None,
    delta_softplus: bool = True,
    **unknown: object,
) -> Tensor:
    """Vim's first two-way form: one convolution and one set of projections, scanned forward with A and backward with A_b."""
    refuse_unknown("bimamba_inner_fn", {name: value for name, value in unknown.items() if value is not None})
    _refuse_complex("bimamba_inner_fn", A)
    x, z = xz.transpose(1, 2).contiguous().chunk(2, -1)
    direction = Direction(conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias)
    y = scan_both_ways(x, z, direction, A_b, (B, C), (B_proj_bias, C_proj_bias), delta_softplus=delta_softplus)
    return functional.linear(y, out_proj_weight.to(y.dtype), _like(out_proj_bias, y))
