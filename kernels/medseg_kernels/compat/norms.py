"""mamba_ssm's norms: RMS and layer norm with a gate, and with a residual that is added first.

Statistics are float32 (float64 for float64). Facts of the interface: the documentation of mamba_ssm.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn import functional

from .options import refuse_unknown, refuse_value


def _normalised(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], eps: float, rms: bool, group: Optional[int]
) -> Tensor:
    """Norm over the last axis, or over groups of it, in the wide dtype of x."""
    parts = x if group is None else x.unflatten(-1, (-1, group))
    if not rms:
        parts = parts - parts.mean(-1, keepdim=True)
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
    y = (parts if group is None else parts.flatten(-2)) * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    z: Optional[Tensor] = None,
    eps: float = 1e-6,
    group_size: Optional[int] = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
    **unknown: object,
) -> Tensor:
    """norm(x) silu(z), or norm(x silu(z)) without norm_before_gate; groups of group_size channels have statistics of their own."""
    refuse_unknown("layernorm_fn", unknown)
    work = torch.promote_types(x.dtype, torch.float32)
    wide, gate = x.to(work), None if z is None else functional.silu(z.to(work))
    if gate is not None and not norm_before_gate:
        wide = wide * gate
    y = _normalised(wide, weight, bias, eps, is_rms_norm, group_size)
    return (y * gate if gate is not None and norm_before_gate else y).to(x.dtype)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    z: Optional[Tensor] = None,
    eps: float = 1e-6,
    group_size: Optional[int] = None,
    norm_before_gate: bool = True,
    **unknown: object,
) -> Tensor:
    """`layernorm_fn` without subtracting the mean."""
    refuse_unknown("rmsnorm_fn", unknown)
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)


class _GatedNorm(nn.Module):
    """What the two gated norms share: settings and a weight of ones."""

    def __init__(
        self, hidden_size: int, eps: float = 1e-5, group_size: Optional[int] = None, norm_before_gate: bool = True,
        device: Any = None, dtype: Any = None, **unknown: object,
    ) -> None:  # fmt: skip
        refuse_unknown(type(self).__name__, unknown)
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))


class RMSNormGated(_GatedNorm):
    """The norm of Mamba2; parameter `weight`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor, z: Optional[Tensor] = None) -> Tensor:
        return rmsnorm_fn(x, self.weight, None, z, self.eps, self.group_size, self.norm_before_gate)


class LayerNormGated(_GatedNorm):
    """The same with a mean and a bias; parameters `weight`, `bias`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x: Tensor, z: Optional[Tensor] = None) -> Tensor:
        return layernorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate)


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    residual: Optional[Tensor] = None,
    *,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    zero_centered_weight: bool = False,
    dropout_p: float = 0.0,
    **unknown: object,
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """Add the residual, then the norm of the sum over the last axis.

    Args:
        x: (..., C); residual alike or None.
        weight: (C,); bias likewise or None.
        eps: added to the variance.
        prenorm: also return the sum.
        residual_in_fp32: the sum is float32 where no residual sets its dtype.
        is_rms_norm: without subtracting the mean.
        zero_centered_weight: the weight counts from 0, that is as 1 + weight.
        dropout_p: 0; others are refused.

    Returns:
        norm in the dtype of x, or with prenorm a pair of it and the sum.

    Raises:
        UnknownOptionError: dropout, or an option that is not known (a second input, `rowscale` ...).
    """
    refuse_unknown("layer_norm_fn", {name: value for name, value in unknown.items() if value})
    if dropout_p:
        refuse_value("layer_norm_fn", "dropout_p", dropout_p, 0.0)
    work = torch.promote_types(x.dtype, torch.float32)
    total = x.to(work) if residual is None else x.to(work) + residual.to(work)
    y = _normalised(total, weight + 1.0 if zero_centered_weight else weight, bias, eps, is_rms_norm, None).to(x.dtype)
    if not prenorm:
        return y
    kept = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
    return y, total.to(kept)


def rms_norm_fn(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, residual: Optional[Tensor] = None, **options: Any
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """`layer_norm_fn` without subtracting the mean; its other options by name."""
    return layer_norm_fn(x, weight, bias, residual, is_rms_norm=True, **options)


class RMSNorm(nn.Module):
    """RMS norm with an optional residual; parameter `weight`."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, dropout_p: float = 0.0, zero_centered_weight: bool = False,
                 device: Any = None, dtype: Any = None, **unknown: object) -> None:  # fmt: skip
        refuse_unknown("RMSNorm", unknown)
        if dropout_p:
            refuse_value("RMSNorm", "dropout_p", dropout_p, 0.0)
        super().__init__()
        self.eps, self.zero_centered_weight = eps, zero_centered_weight
        make = torch.zeros if zero_centered_weight else torch.ones
        self.weight = nn.Parameter(make(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Optional[Tensor] = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        return rms_norm_fn(
            x, self.weight, None, residual, eps=self.eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32,
            zero_centered_weight=self.zero_centered_weight,
        )  # fmt: skip
