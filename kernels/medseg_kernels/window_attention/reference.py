"""Window attention in readable torch: the truth that every backend is compared with.

B batch, X Y Z grid, W windows, T tokens of a window, M carriers of a window, U = M + T, H heads, E per-head channels.

    s_ij = scale * <q_i, k_j> + bias_h[i, j]       -inf where j may not be seen from i
    o_i  = sum_j dropout(softmax_j(s_ij)) v_j

Windows are gathered, so this form copies what the compiled backends only index; it goes through the windows in chunks so
that a score matrix of the whole volume never exists. It is plain torch with static control flow: autograd, TorchScript,
tracing and export work on it, and there it runs instead of the compiled operator. Statistics are float32 (float64 for
float64 input).
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .dropout import keep_mask
from .windows import bias_center, bias_codes, product, token_index, token_slot, visible, windows_per_axis


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the type that statistics are kept in."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def pair_bias(
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    table_window: List[int],
    window: List[int],
    bias_index: str,
    carriers: int,
) -> Optional[Tensor]:
    """The bias of every pair of a window's tokens, (H, U, U), carriers first (they have none in a table)."""
    if dense_bias is not None:
        return wide(dense_bias)
    if bias_table is None:
        return None
    code = bias_codes(table_window, window, bias_index, bias_table.device)
    index = code.unsqueeze(1) - code.unsqueeze(0) + bias_center(table_window)
    tokens = product(window)
    bias = wide(bias_table)[index.reshape(-1)].reshape(tokens, tokens, -1).permute(2, 0, 1)
    return torch.nn.functional.pad(bias, [carriers, 0, carriers, 0])


def allowed_pairs(source: Tensor, region: Tensor, predicate: Tensor, hide_padding: bool, carriers: int) -> Tensor:
    """(W, U, U) booleans: which keys each query sees. A padded query sees all, so that no row is empty.

    Args:
        source: (W, T), -1 for padding.
        region: (W, T).
        predicate: (T, T), from `geometry.visible`.
        hide_padding: padded keys are not seen.
        carriers: M; carriers see all real tokens, and all see carriers.
    """
    real = source >= 0
    allowed = (region.unsqueeze(2) == region.unsqueeze(1)) & predicate
    if hide_padding:
        allowed = allowed & real.unsqueeze(1)
    allowed = allowed | ~real.unsqueeze(2)
    if carriers == 0:
        return allowed
    seen = real if hide_padding else torch.ones_like(real)
    from_carrier = seen.unsqueeze(1).expand(-1, carriers, -1)
    allowed = torch.cat([from_carrier, allowed], dim=1)
    return torch.nn.functional.pad(allowed, [carriers, 0], value=True)


def gather_windows(
    tokens: Tensor, source: Tensor, padding: Optional[Tensor], sample: Optional[Tensor], carriers: Optional[Tensor]
) -> Tensor:
    """Tokens (B, N, R, H, E) of some windows, as (B, W, R, H, U, E): R is 3 for q, k, v, or 2, or 1.

    Args:
        tokens: the grid, flattened.
        source: (W, T).
        padding: (R, H, E), what a padded token holds; zero when absent.
        sample: (B, R, H, E), added to every token of that sample, padded ones included, carriers not.
        carriers: (B, W, M, R, H, E), put first.
    """
    batch, _, roles, heads, channels = tokens.shape
    windows, size = source.shape
    picked = wide(tokens.index_select(1, source.clamp(min=0).reshape(-1)))
    picked = picked.reshape(batch, windows, size, roles, heads, channels)
    real = (source >= 0)[None, :, :, None, None, None]
    if padding is None:
        picked = picked * real.to(picked.dtype)
    else:
        picked = torch.where(real, picked, wide(padding))
    if sample is not None:
        picked = picked + wide(sample)[:, None, None]
    if carriers is not None:
        picked = torch.cat([wide(carriers), picked], dim=2)
    return picked.permute(0, 1, 3, 4, 2, 5)


def split_roles(
    qkv: Tensor, kv: Optional[Tensor], global_query: Optional[Tensor]
) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
    """(tokens that hold k and v, tokens that hold q, query shared by all windows), grid flattened, roles third."""
    heads, channels = qkv.shape[-2], qkv.shape[-1]
    batch, length = qkv.shape[0], qkv.shape[1] * qkv.shape[2] * qkv.shape[3]
    if global_query is not None:
        shared = global_query.reshape(batch, -1, heads, channels).permute(0, 2, 1, 3).unsqueeze(1)
        return qkv.reshape(batch, length, 2, heads, channels), None, shared
    if kv is not None:
        return (
            kv.reshape(batch, length, 2, heads, channels),
            qkv.reshape(batch, length, 1, heads, channels),
            None,
        )
    return qkv.reshape(batch, length, 3, heads, channels), None, None


def query_key_value(
    grids: Tuple[Tensor, Optional[Tensor], Optional[Tensor]],
    source: Tensor,
    padding: Optional[Tensor],
    sample: Optional[Tensor],
    carriers: Optional[Tensor],
) -> Tuple[Tensor, Tensor, Tensor]:
    """q, k, v of some windows, each (B, W, H, U, E), wherever they come from.

    Args:
        grids: what `split_roles` returned.
        source: (W, T) of these windows.
        padding: (3, H, E).
        sample: (B, 3, H, E).
        carriers: (B, W, M, 3, H, E) of these windows.
    """
    packed, apart, shared = grids
    if apart is None and shared is None:
        window = gather_windows(packed, source, padding, sample, carriers)
        return window[:, :, 0], window[:, :, 1], window[:, :, 2]
    pad_q = padding[:1] if padding is not None else None
    pad_kv = padding[1:] if padding is not None else None
    sample_kv = sample[:, 1:] if sample is not None else None
    carriers_kv = carriers[:, :, :, 1:] if carriers is not None else None
    window = gather_windows(packed, source, pad_kv, sample_kv, carriers_kv)
    sample_q = sample[:, :1] if sample is not None else None
    carriers_q = carriers[:, :, :, :1] if carriers is not None else None
    if apart is not None:
        q = gather_windows(apart, source, pad_q, sample_q, carriers_q)[:, :, 0]
        return q, window[:, :, 0], window[:, :, 1]
    assert shared is not None
    q = wide(shared).expand(-1, source.shape[0], -1, -1, -1)
    if sample_q is not None:
        q = q + wide(sample_q)[:, 0].unsqueeze(1).unsqueeze(3)
    if carriers_q is not None:
        q = torch.cat([wide(carriers_q)[:, :, :, 0].transpose(2, 3), q], dim=3)
    return q, window[:, :, 0], window[:, :, 1]


def chunk_size(batch: int, heads: int, tokens: int, windows: int) -> int:
    """Windows that are worked on at a time."""
    return max(1, min(windows, (1 << 23) // max(1, batch * heads * tokens * tokens)))


def dropout_rows(batch: int, windows: int, heads: int, start: int, count: int, device: torch.device) -> Tensor:
    """(B, count, H) second counters of the dropout generator for windows start .. start + count."""
    sample = torch.arange(batch, device=device).reshape(-1, 1, 1)
    window = torch.arange(start, start + count, device=device).reshape(1, -1, 1)
    head = torch.arange(heads, device=device).reshape(1, 1, -1)
    return (sample * windows + window) * heads + head


def attend(
    qkv: Tensor,
    kv: Optional[Tensor],
    global_query: Optional[Tensor],
    carriers: Optional[Tensor],
    sample: Optional[Tensor],
    padding: Optional[Tensor],
    bias_table: Optional[Tensor],
    dense_bias: Optional[Tensor],
    seed: Optional[Tensor],
    table_window: List[int],
    window: List[int],
    shift: List[int],
    radius: List[int],
    causal: bool,
    geometry: str,
    pad_mode: str,
    bias_index: str,
    scale: float,
    dropout: float,
) -> Tuple[Tensor, Tensor]:
    """Window attention, differentiable by autograd; arguments as in `problem.Problem`, already checked.

    Returns:
        (B, X, Y, Z, H * E), and the carriers' outputs (B, W, M, H * E), empty (M = 0) without carriers.
    """
    grid = [qkv.shape[1], qkv.shape[2], qkv.shape[3]]
    batch, heads, channels = qkv.shape[0], qkv.shape[-2], qkv.shape[-1]
    extra = carriers.shape[2] if carriers is not None else 0
    source, region = token_index(grid, window, shift, geometry, qkv.device)
    windows = product(windows_per_axis(grid, window))
    predicate = visible(window, causal, radius, qkv.device)
    bias = pair_bias(bias_table, dense_bias, table_window, window, bias_index, extra)
    grids = split_roles(qkv, kv, global_query)
    tokens = product(window) + extra
    step = chunk_size(batch, heads, tokens, windows)
    outputs: List[Tensor] = []
    for start in range(0, windows, step):
        stop = min(windows, start + step)
        part = carriers[:, start:stop] if carriers is not None else None
        q, k, v = query_key_value(grids, source[start:stop], padding, sample, part)
        scores = torch.matmul(q, k.transpose(-2, -1)) * scale
        if bias is not None:
            scores = scores + bias
        allowed = allowed_pairs(source[start:stop], region[start:stop], predicate, pad_mode == "mask", extra)
        scores = scores.masked_fill(~allowed.unsqueeze(1).unsqueeze(0), float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        if dropout > 0.0:
            assert seed is not None
            rows = dropout_rows(batch, windows, heads, start, stop - start, qkv.device)
            weights = weights * keep_mask(rows, tokens, seed, dropout).to(weights.dtype) / (1.0 - dropout)
        outputs.append(torch.matmul(weights, v).transpose(2, 3))
    joined = torch.cat(outputs, dim=1).to(qkv.dtype)
    from_carriers = joined[:, :, :extra].reshape(batch, windows, extra, heads * channels)
    places = token_slot(grid, window, shift, geometry, qkv.device)
    body = joined[:, :, extra:].reshape(batch, windows * product(window), heads * channels)
    return body.index_select(1, places).reshape(batch, grid[0], grid[1], grid[2], heads * channels), from_carriers
