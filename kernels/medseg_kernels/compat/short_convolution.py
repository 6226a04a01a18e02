"""causal_conv1d's functions: the causal depthwise convolution of sequences, and its step.

B batch, D channels, L length, W taps; y[t] = act(bias + sum_j weight[W-1-j] x[t-j]). Facts of the interface: the documentation of
causal_conv1d (Dao-AILab, BSD).
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional

from ..short_conv.api import short_conv
from .options import refuse_unknown, refuse_value

ACTIVATIONS = (None, "silu", "swish")


def _silu(function: str, activation: Optional[str]) -> bool:
    if activation not in ACTIVATIONS:
        refuse_value(function, "activation", activation, "None, 'silu' or 'swish'")
    return activation is not None


def along_sequence(x: Tensor, weight: Tensor, bias: Optional[Tensor], silu: bool) -> Tensor:
    """The convolution of (B, L, D) along L, on the backend that this machine has.

    Args:
        x: (B, L, D), neighbouring channels side by side, else it is copied.
        weight: (D, W).
        bias: (D,) or None.
        silu: apply SiLU.
    """
    x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
    shape = (x.shape[0], x.shape[1], 1, 1, x.shape[2])
    return short_conv(x.unflatten(1, shape[1:4]), weight, bias, silu=silu).flatten(1, 3)


def _within_sequences(x: Tensor, weight: Tensor, bias: Optional[Tensor], seq_idx: Tensor) -> Tensor:
    """The convolution of (B, L, D) where no tap reaches into another sequence; 0 where seq_idx is negative (padding)."""
    width = weight.shape[1]
    y = x * weight[:, -1]
    for back in range(1, min(width, x.shape[1])):
        same = (seq_idx[:, back:] == seq_idx[:, :-back]).unsqueeze(-1)
        term = torch.where(same, x[:, :-back] * weight[:, width - 1 - back], x.new_zeros(()))
        y = y + functional.pad(term, (0, 0, back, 0))
    return y if bias is None else y + bias


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    seq_idx: Union[Tensor, str, None] = None,
    initial_states: Optional[Tensor] = None,
    return_final_states: bool = False,
    final_states_out: Optional[Tensor] = None,
    activation: Optional[str] = None,
    **unknown: object,
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """The causal depthwise convolution under causal_conv1d's signature.

    Args:
        x: (B, D, L), any strides; (B, L, D) in memory is read without a copy.
        weight: (D, W), any W.
        bias: (D,) or None.
        seq_idx: (B, L) integers: no tap reaches from one number into another; where negative, the result is 0. A text in
            this place is the activation, which stood here in version 1.0.
        initial_states: (B, D, W-1), what stood before the first step.
        return_final_states: also return the last W-1 inputs, with gradients.
        final_states_out: (B, D, W-1), a tensor that receives them.
        activation: None, silu or swish.

    Returns:
        (B, D, L) in the dtype of x; with return_final_states a pair.

    Raises:
        UnknownOptionError: an activation or option that is not known.
        ValueError: seq_idx together with states.
    """
    refuse_unknown("causal_conv1d_fn", unknown)
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    silu = _silu("causal_conv1d_fn", activation)
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError("causal_conv1d_fn: seq_idx: found with states; expected seq_idx or states, not both")
        y = _within_sequences(x.transpose(1, 2).to(weight.dtype), weight, bias, seq_idx)
        y = functional.silu(y) if silu else y
        return y.masked_fill((seq_idx < 0).unsqueeze(-1), 0.0).transpose(1, 2).to(x.dtype)
    before = weight.shape[1] - 1
    whole = x if initial_states is None else torch.cat([initial_states.to(x.dtype), x], -1)
    out = along_sequence(whole.transpose(1, 2), weight, bias, silu).transpose(1, 2)
    out = out if initial_states is None else out[..., before:]
    if not return_final_states:
        return out
    final = functional.pad(whole, (before - whole.shape[-1], 0))
    return out, final if final_states_out is None else final_states_out.copy_(final)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    activation: Optional[str] = None,
    cache_seqlens: Optional[Tensor] = None,
    conv_state_indices: Optional[Tensor] = None,
    **unknown: object,
) -> Tensor:
    """One or several further steps of the convolution; the state takes up the new inputs in place.

    Args:
        x: (B, D) or (B, D, L).
        conv_state: (B, D, M) with M >= W-1, the last inputs; changed. With conv_state_indices its first axis is longer.
        weight: (D, W).
        bias: (D,) or None.
        activation: None, silu or swish.
        cache_seqlens: (B,) integers: the state is a ring, and new inputs are written from place cache_seqlens % M on.
        conv_state_indices: (B,) integers, the rows of conv_state that belong to x.

    Returns:
        like x.

    Raises:
        UnknownOptionError: an activation or option that is not known.
    """
    refuse_unknown("causal_conv1d_update", unknown)
    silu, steps = _silu("causal_conv1d_update", activation), x.unsqueeze(-1) if x.dim() == 2 else x
    rows = conv_state if conv_state_indices is None else conv_state[conv_state_indices]
    width, room, count = weight.shape[1], rows.shape[-1], steps.shape[-1]
    if cache_seqlens is None:
        whole = torch.cat([rows.to(steps.dtype), steps], -1)
        kept = whole[..., -room:]
    else:
        first = cache_seqlens.long().view(-1, 1, 1)
        places = (first + torch.arange(1 - width, 0, device=x.device)) % room
        whole = torch.cat([rows.gather(2, places.expand(-1, rows.shape[1], -1)).to(steps.dtype), steps], -1)
        places = (first + torch.arange(count, device=x.device)) % room
        kept = rows.scatter(2, places.expand(-1, rows.shape[1], -1), steps.to(rows.dtype))
    with torch.no_grad():
        if conv_state_indices is None:
            conv_state.copy_(kept)
        else:
            conv_state[conv_state_indices] = kept.to(conv_state.dtype)
    y = functional.conv1d(whole.to(weight.dtype), weight.unsqueeze(1), bias, groups=weight.shape[0])[..., -count:]
    y = (functional.silu(y) if silu else y).to(x.dtype)
    return y.squeeze(-1) if x.dim() == 2 else y


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last inputs of every packed sequence, zeros before its start: (N, D), (W + 1,) -> (W, D, state_len)."""
    ends = cu_seqlens[1:].long().view(-1, 1)
    places = ends + torch.arange(-state_len, 0, device=x.device)
    rows = x[places.clamp(min=0)] * (places >= cu_seqlens[:-1].view(-1, 1)).unsqueeze(-1).to(x.dtype)
    return rows.transpose(1, 2)
