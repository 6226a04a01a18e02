"""The names of VMamba's compiled extension: no gate, and outputs in float32 where asked for. Runs on any device."""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor

from .sequence_scan import scan_backward, scan_forward


def fwd(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], delta_bias: Optional[Tensor],
    delta_softplus: bool, nrows: int, out_float: bool = False, **unknown: object,
) -> List[Tensor]:  # fmt: skip
    """`selective_scan_cuda.fwd` without a gate.

    Args:
        nrows: taken and without effect on the result.
        out_float: outputs in float32, from sums that were never rounded to the dtype of u.
    """
    given = u.to(torch.promote_types(u.dtype, torch.float32)) if out_float else u
    return scan_forward(given, delta, A, B, C, D, None, delta_bias, delta_softplus, **unknown)


def bwd(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], delta_bias: Optional[Tensor],
    dout: Tensor, x: Tensor, delta_softplus: bool, nrows: int, **unknown: object,
) -> List[Optional[Tensor]]:  # fmt: skip
    """`selective_scan_cuda.bwd` without a gate."""
    return scan_backward(u, delta, A, B, C, D, None, delta_bias, dout, x, None, None, delta_softplus, False, **unknown)


__all__ = ["bwd", "fwd"]
