"""Attention with every score written out: what the windows of the tests are compared with."""

import math

import torch
from torch import Tensor

from tests.networks.agreement import (
    softmax,
)

SIDE = 3  # of the windows


def attend(qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(B, T, 3 C) -> (B, T, C), a loop over the heads; bias (H, T, T)."""
    q, k, v = qkv.chunk(3, -1)
    channels = q.shape[-1] // heads
    outputs = []
    for h in range(heads):
        part = slice(h * channels, (h + 1) * channels)
        scores = torch.einsum("bie,bje->bij", q[..., part], k[..., part]) / math.sqrt(channels)
        scores = scores if bias is None else scores + bias[h]
        outputs.append(torch.einsum("bij,bje->bie", softmax(scores), v[..., part]))
    return torch.cat(outputs, -1)
