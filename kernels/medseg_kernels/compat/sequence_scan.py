"""mamba_ssm's selective scan of a sequence, and the pair of functions of its compiled extension.

B batch, D channels, L length, S states, G groups. Facts of the interface: the documentation of mamba_ssm (state-spaces,
Apache 2.0), and what published networks read of the extension's results.
"""

from __future__ import annotations

from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional

from ..selective_scan.api import _check_sequence, _tokens_last
from ..selective_scan.api import selective_scan_fn as scan
from ..selective_scan.chunked_backward import Inputs
from ..selective_scan.op import scan_backward_op, scan_op, work_dtype
from ..selective_scan.reference import saturated
from .options import refuse_unknown, refuse_value


def _refuse_complex(function: str, A: Tensor) -> None:
    if A.is_complex():
        refuse_value(function, "A", A.dtype, "real A")


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
    **unknown: object,
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """`medseg_kernels.selective_scan_fn`, which has mamba_ssm's signature; what that does not know is refused by name.

    Unlike in mamba_ssm the gradient of the last state counts.

    Raises:
        UnknownOptionError: complex A, or an option that is not known.
        ValueError: shapes that do not fit.
    """
    refuse_unknown("selective_scan_fn", unknown)
    _refuse_complex("selective_scan_fn", A)
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def selective_scan_ref(
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
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """`selective_scan_fn` one step after the other in torch: slow, and what the others are compared with."""
    _refuse_complex("selective_scan_ref", A)
    _check_sequence(u, delta, B, C, z)
    work = work_dtype(u)
    tokens = [None if x is None else x.to(work) for x in (u, delta, z)]
    step = tokens[1] if delta_bias is None else tokens[1] + delta_bias.to(work).unsqueeze(-1)  # type: ignore[operator]
    step = functional.softplus(step) if delta_softplus else step  # type: ignore[arg-type]
    write, read = (_tokens_last(x.to(work), u.shape[0], u.shape[2])[:, :, 0, 0] for x in (B, C))
    each_w, each_r = (u.shape[1] // x.shape[2] for x in (write, read))
    state, ys = u.new_zeros(u.shape[0], *A.shape, dtype=work), []
    # unbind, not x[..., t]: indexing inside the loop makes the backward quadratic in L
    for u_t, step_t, w_t, r_t in zip(tokens[0].unbind(2), step.unbind(2), write.unbind(1), read.unbind(1), strict=True):  # type: ignore[union-attr]
        drive = (step_t * u_t).unsqueeze(-1) * w_t.repeat_interleave(each_w, 1)
        state = torch.exp(step_t.unsqueeze(-1) * A.to(work)) * state + drive
        ys.append((state * r_t.repeat_interleave(each_r, 1)).sum(-1))
    y = torch.stack(ys, 2)
    y = y if D is None else y + D.to(work).unsqueeze(-1) * tokens[0]  # type: ignore[operator]
    y = (y if tokens[2] is None else y * functional.silu(tokens[2])).to(u.dtype)
    return (y, state) if return_last_state else y


def _flat(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], delta_bias: Optional[Tensor]
) -> Inputs:
    """The extension's arguments as those of the registered operator: tokens before channels, one traversal."""
    _check_sequence(u, delta, B, C, None)
    work, (batch, _, length) = work_dtype(u), u.shape
    write, read = (_tokens_last(x, batch, length)[:, :, 0, 0].unsqueeze(1) for x in (B, C))
    rows = [None if x is None else x.to(work).unsqueeze(0) for x in (D, delta_bias)]
    tokens = [x.transpose(1, 2).contiguous().unsqueeze(1) for x in (u, delta)]
    return Inputs(tokens[0], tokens[1], A.to(work).unsqueeze(0), write, read, rows[0], None, rows[1], None, None)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor],
    z: Optional[Tensor],
    delta_bias: Optional[Tensor],
    delta_softplus: bool,
    **unknown: object,
) -> List[Tensor]:
    """`selective_scan_cuda.fwd`: [out, x] or, with z, [out, x, out_z]; no gradients are recorded.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus: as `selective_scan_fn`.

    Returns:
        out (B, D, L) before the gate; x (B, D, n, 2 S), whose `x[:, :, -1, 1::2]` is the last state and whose other entries are
        for `scan_backward` alone; out_z = out silu(z).
    """
    refuse_unknown("selective_scan_cuda.fwd", unknown)
    _refuse_complex("selective_scan_cuda.fwd", A)
    with torch.no_grad():
        given = _flat(u, delta, A, B, C, D, delta_bias)
        grid = [u.shape[2], 1, 1]
        out, last, kept = scan_op(*given, grid, "raster", delta_softplus, "sum", True, None)
        # (B, 1, n, S, D) -> (B, D, n, S), and the last state as one more row
        states = torch.cat([kept[:, 0].permute(0, 3, 1, 2), last[:, 0].unsqueeze(2)], 2)
        x = torch.stack([torch.zeros_like(states), states], -1).flatten(-2)
        out = out.transpose(1, 2).contiguous()
        return [out, x] if z is None else [out, x, saturated(out * functional.silu(z), u.dtype)]


def scan_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor],
    z: Optional[Tensor],
    delta_bias: Optional[Tensor],
    dout: Tensor,
    x: Tensor,
    out: Optional[Tensor],
    dz: Optional[Tensor],
    delta_softplus: bool,
    recompute_out_z: bool,
    **unknown: object,
) -> List[Optional[Tensor]]:
    """`selective_scan_cuda.bwd`: [du, ddelta, dA, dB, dC, dD, ddelta_bias], with z also dz, and out_z where asked for.

    Args:
        dout: (B, D, L), the gradient of out, or of out_z with z.
        x: what `scan_forward` returned; out likewise, needed with z.
        dz: a tensor that receives the gradient of z, or None.
        recompute_out_z: return out_z once more.

    Returns:
        gradients in the shapes of their tensors, None for absent ones.
    """
    refuse_unknown("selective_scan_cuda.bwd", unknown)
    if z is not None and out is None:
        raise ValueError(
            "selective_scan_cuda.bwd: out: found None with z; expected what selective_scan_cuda.fwd returned"
        )
    with torch.no_grad():
        given = _flat(u, delta, A, B, C, D, delta_bias)
        through = dout if z is None else dout * functional.silu(z)
        kept = x[:, :, :-1, 1::2].permute(0, 2, 3, 1).unsqueeze(1).contiguous()
        last = kept.new_zeros(u.shape[0], 1, u.shape[1], A.shape[1])
        grads = scan_backward_op(
            through.transpose(1, 2).contiguous(), last, *given, kept, [u.shape[2], 1, 1], "raster", delta_softplus, "sum",
            None,
        )  # fmt: skip
        du, ddelta = (g[:, 0].transpose(1, 2).contiguous() for g in grads[:2])
        dB, dC = (_like_projection(g[:, 0], like) for g, like in ((grads[3], B), (grads[4], C)))
        rows = [None if like is None else g[0] for g, like in ((grads[5], D), (grads[7], delta_bias))]
        result = [du, ddelta, grads[2][0], dB, dC, *rows]
        if z is None or out is None:
            return result
        sigmoid = torch.sigmoid(z)
        gate = dout * out * sigmoid * (1 + z * (1 - sigmoid))
        result.append(gate.to(z.dtype) if dz is None else dz.copy_(gate))
        return [*result, saturated(out * functional.silu(z), u.dtype)] if recompute_out_z else result


def _like_projection(grad: Tensor, like: Tensor) -> Tensor:
    """(B, L, G, S) -> (D, S) constant, (B, S, L) or (B, G, S, L), as the tensor itself was given."""
    if like.dim() == 2:
        return grad.sum((0, 1))
    grad = grad.permute(0, 2, 3, 1).contiguous()
    return grad[:, 0] if like.dim() == 3 else grad
