"""mamba_ssm's `Block`: add the residual, norm, mixer, and where one is given a second norm and an MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn

from .norms import RMSNorm, layer_norm_fn
from .options import refuse_unknown


class Block(nn.Module):
    """(hidden, residual) -> (hidden, residual); the sum is added before the next norm, not after the mixer.

    Args:
        dim: channels.
        mixer_cls: makes the mixer of `dim` channels.
        mlp_cls: makes the MLP, or `nn.Identity` for none; a norm in this place, as in version 1, is taken as `norm_cls`.
        norm_cls: makes the norm.
        fused_add_norm: taken and without effect on the result.
        residual_in_fp32: keep the sum in float32.
    """

    def __init__(self, dim: int, mixer_cls: Callable[[int], nn.Module], mlp_cls: Any = nn.Identity,
                 norm_cls: Any = nn.LayerNorm, fused_add_norm: bool = False, residual_in_fp32: bool = False,
                 **unknown: object) -> None:  # fmt: skip
        refuse_unknown("Block", unknown)
        super().__init__()
        kind = getattr(mlp_cls, "func", mlp_cls)
        if isinstance(kind, type) and issubclass(kind, (nn.LayerNorm, RMSNorm)):
            mlp_cls, norm_cls = nn.Identity, mlp_cls
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.norm = norm_cls(dim)
        self.mixer: Any = mixer_cls(dim)
        self.mlp: Any = None
        if mlp_cls is not nn.Identity:
            self.norm2, self.mlp = norm_cls(dim), mlp_cls(dim)

    def forward(
        self, hidden_states: Tensor, residual: Optional[Tensor] = None, inference_params: Any = None, **options: Any
    ) -> Tuple[Tensor, Tensor]:
        """(B, L, C), and the sum so far or None, to the same."""
        hidden_states, residual = self._add_norm(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **options)
        if self.mlp is not None:
            hidden_states, residual = self._add_norm(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _add_norm(self, norm: Any, x: Tensor, residual: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        rms = isinstance(norm, RMSNorm)
        if rms or isinstance(norm, nn.LayerNorm):
            pair = layer_norm_fn(
                x, norm.weight, norm.bias, residual, eps=norm.eps, prenorm=True, residual_in_fp32=self.residual_in_fp32,
                is_rms_norm=rms,
            )  # fmt: skip
            return pair[0], pair[1]
        total = x if residual is None else x + residual
        return norm(total), total.to(torch.float32) if self.residual_in_fp32 else total

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: Any = None, **options: Any) -> Any:
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)
