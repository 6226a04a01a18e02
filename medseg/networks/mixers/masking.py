"""How mixers leave out tokens that are padding: volumes of different sizes in one batch, filled up to the same grid.

B batch, X Y Z grid, H heads, E per-head channels. Attention gets one more channel per head, 1 in every query, 0 in the key of
a real token and a large negative number in that of padding: the operators stay as they are. Recurrences pass over padding:
no decay, nothing written.
"""

from typing import Optional

import torch
from torch import Tensor

NEVER = -30000.0  # times 1 / sqrt(E) still far below any score; within the range of float16


def hide(x: Tensor, valid: Optional[Tensor], value: float = 0.0) -> Tensor:
    """(B, X, Y, Z, ...) with `value` where `valid` (B, X, Y, Z) is False; x itself without a mask."""
    if valid is None:
        return x
    mask = valid
    while mask.dim() < x.dim():
        mask = mask.unsqueeze(-1)
    return x.masked_fill(~mask, value)


def exclude(x: Tensor, valid: Optional[Tensor], value: float = NEVER) -> Tensor:
    """`hide` with a value that a softplus or an exponential turns into 0: a step or gate that lets nothing in."""
    return hide(x, valid, value)


def key_scores(valid: Tensor, value: float = NEVER) -> Tensor:
    """What is added to the scores of every key: 0 where `valid`, else a number that no softmax notices."""
    return torch.where(valid, 0.0, value)


def mark_keys(x: Tensor, valid: Tensor, key: int) -> Tensor:
    """(B, X, Y, Z, R, H, E) -> E + 1 channels: 1 for a query, 0 or `NEVER` for a key, 0 for a value.

    Args:
        x: R is 3 (query, key, value) or 2 (key, value).
        valid: (B, X, Y, Z).
        key: index of the keys among R; a query, if any, is before it.
    """
    extra = torch.zeros_like(x[..., :1])
    if key == 1:
        extra[..., 0, :, :] = 1.0
    extra[..., key, :, 0] = key_scores(valid).to(x.dtype).unsqueeze(-1)
    return torch.cat([x, extra], dim=-1)


def add_channel(x: Tensor, query: int) -> Tensor:
    """(..., R, H, E) -> E + 1 channels, 1 for role number `query` (-1: none), 0 for the others: tokens that all see."""
    extra = torch.zeros_like(x[..., :1])
    if query >= 0:
        extra[..., query, :, :] = 1.0
    return torch.cat([x, extra], dim=-1)


def drop_channel(y: Tensor, num_heads: int) -> Tensor:
    """(..., H (E + 1)) -> (..., H E): takes the extra channel away from the operator's output."""
    return y.unflatten(-1, [num_heads, -1])[..., :-1].flatten(-2)
