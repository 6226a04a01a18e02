"""Dropout decisions that any backend can compute for itself: Philox 2x32 with seven rounds, in torch.

Score (i, j) of head h in window w of sample b is dropped when the generator's word for the counter
`(i * T + j, (b * W + w) * H + h)` under the key `seed` is below `dropout * 2**32`. Nothing is stored: forward and
backward, on any device and with any tiling, ask the same question and get the same answer.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIER = 0xD256D193
WEYL = 0x9E3779B9
ROUNDS = 7
_LOW = 0xFFFFFFFF


def threshold(dropout: float) -> int:
    """Words below this number drop their score."""
    return min(int(dropout * 4294967296.0), 4294967295)


def words(first: Tensor, second: Tensor, seed: Tensor) -> Tensor:
    """Random 32-bit words, as int64, of the counters (first, second), which broadcast, under one key."""
    c0, c1 = first & 0xFFFFFFFF, second & 0xFFFFFFFF
    key = seed.to(torch.int64) & 0xFFFFFFFF
    for _ in range(7):
        product = c0 * 0xD256D193  # wraps in int64; its 64 bits are those of the unsigned product
        c0 = ((product >> 32) & 0xFFFFFFFF) ^ key ^ c1
        c1 = product & 0xFFFFFFFF
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    return c0


def keep_mask(rows: Tensor, tokens: int, seed: Tensor, dropout: float) -> Tensor:
    """Booleans (..., T, T), True where a score stays.

    Args:
        rows: int64 (...): second counter `(b * W + w) * H + h` of each score matrix.
        tokens: T.
        seed: int64 tensor with one element.
        dropout: probability of dropping a score.
    """
    pair = torch.arange(tokens * tokens, device=rows.device).reshape(tokens, tokens)
    return words(pair, rows.unsqueeze(-1).unsqueeze(-1), seed) >= min(int(dropout * 4294967296.0), 4294967295)
