"""The `reference` backend: forward that keeps the log-sum-exp, and the backward formulas written out, in chunks.

p_ij = exp(s_ij - lse_i)      dp_ij = keep_ij <do_i, v_j>      delta_i = <do_i, o_i>      ds_ij = p_ij (dp_ij - delta_i)
dv_j = sum_i keep_ij p_ij do_i     dq_i = scale sum_j ds_ij k_j     dk_j = scale sum_i ds_ij q_i     dbias = sum ds
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .call import Gradients, Problem
from .dropout import keep_mask
from .reference import allowed_pairs, chunk_size, dropout_rows, pair_bias, query_key_value, split_roles, wide
from .windows import bias_center, bias_codes, product, token_index, token_slot, visible


def refuse(*tensors: Tensor) -> str | None:
    """Never: this form runs everywhere."""
    return None


class _Chunks:
    """Goes through a problem's windows: scores, who sees whom, dropout."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        device = problem.qkv.device
        self.source, self.region = token_index(problem.grid, problem.window, problem.shift, problem.geometry, device)
        self.predicate = visible(problem.window, problem.causal, problem.radius, device)
        self.bias = pair_bias(
            problem.bias_table,
            problem.dense_bias,
            problem.table_window,
            problem.window,
            problem.bias_index,
            problem.extra,
        )
        self.grids = split_roles(problem.qkv, problem.kv, problem.global_query)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
        """(windows, q, k, v, scores, keep), the last scaled by 1 / (1 - dropout), or None."""
        p = self.problem
        step = chunk_size(p.batch, p.heads, p.tokens, p.windows)
        for start in range(0, p.windows, step):
            part = slice(start, min(p.windows, start + step))
            carriers = None if p.carriers is None else p.carriers[:, part]
            q, k, v = query_key_value(self.grids, self.source[part], p.padding, p.sample, carriers)
            scores = q @ k.transpose(-2, -1) * p.scale
            if self.bias is not None:
                scores = scores + self.bias
            pairs = allowed_pairs(self.source[part], self.region[part], self.predicate, p.pad_mode == "mask", p.extra)
            scores = scores.masked_fill(~pairs[None, :, None], float("-inf"))
            keep = None
            if p.dropout > 0.0 and p.seed is not None:
                rows = dropout_rows(p.batch, p.windows, p.heads, start, part.stop - start, scores.device)
                keep = keep_mask(rows, p.tokens, p.seed, p.dropout).to(scores.dtype) / (1.0 - p.dropout)
            yield part, q, k, v, scores, keep


def forward(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, carriers, log-sum-exp); the last is +inf for padded queries, whose weights are thereby zero later."""
    p, chunks = problem, _Chunks(problem)
    joined = p.qkv.new_empty(p.batch, p.windows, p.tokens, p.heads, p.channels)
    kept = p.qkv.new_empty(p.batch, p.windows, p.heads, p.tokens, dtype=wide(p.qkv).dtype)
    for part, _, _, v, scores, keep in chunks:
        lse = torch.logsumexp(scores, dim=-1)
        weights = torch.exp(scores - lse.unsqueeze(-1))
        if keep is not None:
            weights = weights * keep
        joined[:, part] = (weights @ v).transpose(2, 3).to(joined.dtype)
        kept[:, part] = lse
    kept[..., p.extra :].masked_fill_((chunks.source < 0)[None, :, None], float("inf"))
    places = token_slot(p.grid, p.window, p.shift, p.geometry, p.qkv.device)
    body = joined[:, :, p.extra :].reshape(p.batch, -1, p.heads * p.channels).index_select(1, places)
    carriers = joined[:, :, : p.extra].flatten(3).clone()
    return body.reshape(p.batch, *p.grid, -1), carriers, kept


def _windows_of(problem: Problem, source: Tensor, body: Tensor, carriers: Tensor) -> Tensor:
    """An output-shaped pair of tensors as (B, W, H, U, E), zero at padded tokens."""
    p = problem
    flat = wide(body).reshape(p.batch, -1, p.heads, p.channels)
    window = flat.index_select(1, source.clamp(min=0).reshape(-1)).reshape(p.batch, *source.shape, p.heads, p.channels)
    window = window.masked_fill((source < 0)[None, :, :, None, None], 0.0)
    extra = wide(carriers).reshape(p.batch, source.shape[0], p.extra, p.heads, p.channels)
    return torch.cat([extra, window], dim=2).transpose(2, 3)


def backward(
    problem: Problem, out: Tensor, out_carriers: Tensor, lse: Tensor, grad: Tensor, grad_carriers: Tensor
) -> Gradients:
    """Gradients of all tensors from those of the two outputs."""
    p, chunks = problem, _Chunks(problem)
    shape = (p.batch, p.windows, p.heads, p.tokens, p.channels)
    dq, dk, dv = (p.qkv.new_empty(shape, dtype=lse.dtype) for _ in range(3))
    dbias = None if chunks.bias is None else torch.zeros_like(chunks.bias)
    for part, q, k, v, scores, keep in chunks:
        dout = _windows_of(p, chunks.source[part], grad, grad_carriers[:, part])
        output = _windows_of(p, chunks.source[part], out, out_carriers[:, part])
        weights = torch.exp(scores - lse[:, part].unsqueeze(-1))
        dweights = dout @ v.transpose(-2, -1)
        kept = weights
        if keep is not None:
            dweights, kept = dweights * keep, weights * keep
        dscores = weights * (dweights - (dout * output).sum(-1, keepdim=True))
        dv[:, part] = kept.transpose(-2, -1) @ dout
        dq[:, part] = dscores @ k * p.scale
        dk[:, part] = dscores.transpose(-2, -1) @ q * p.scale
        if dbias is not None:
            dbias += dscores.sum((0, 1))
    return _collect(p, chunks.source, dq, dk, dv, dbias)


def _collect(problem: Problem, source: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, dbias: Tensor | None) -> Gradients:
    """Per-window gradients (B, W, H, U, E) brought to the shapes of the tensors they belong to."""
    p = problem
    places = token_slot(p.grid, p.window, p.shift, p.geometry, p.qkv.device)

    def to_grid(gradients: list[Tensor]) -> Tensor:
        window = torch.stack(gradients, dim=3)[:, :, :, :, p.extra :]  # (B, W, H, R, T, E)
        flat = window.permute(0, 1, 4, 3, 2, 5).flatten(1, 2).index_select(1, places)
        return flat.reshape(p.batch, *p.grid, len(gradients), p.heads, p.channels).to(p.qkv.dtype)

    window = torch.stack([dq, dk, dv], dim=2)  # (B, W, 3, H, U, E)
    body = window[..., p.extra :, :]
    found = Gradients(qkv=p.qkv)
    if p.global_query is not None:
        found.qkv = to_grid([dk, dv])
        found.global_query = body[:, :, 0].sum(1).transpose(1, 2).to(p.qkv.dtype)
    elif p.kv is not None:
        found.qkv, found.kv = to_grid([dq]).squeeze(4), to_grid([dk, dv])
    else:
        found.qkv = to_grid([dq, dk, dv])
    if p.carriers is not None:
        found.carriers = window[..., : p.extra, :].permute(0, 1, 4, 2, 3, 5).to(p.qkv.dtype)
    if p.sample is not None:
        found.sample = body.sum((1, 4)).to(p.qkv.dtype)
    if p.padding is not None:
        hidden = (source < 0)[None, :, None, None, :, None]
        found.padding = body.masked_fill(~hidden, 0.0).sum((0, 1, 4)).to(p.qkv.dtype)
    if dbias is not None:
        found.bias_table, found.dense_bias = bias_gradient(p, dbias)
    return found


def bias_gradient(problem: Problem, dbias: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(gradient of the table, gradient of the dense bias) from that of every pair (H, U, U)."""
    p = problem
    if p.dense_bias is not None:
        return None, dbias.to(p.dense_bias.dtype)
    assert p.bias_table is not None
    code = bias_codes(p.table_window, p.window, p.bias_index, dbias.device)
    index = (code.unsqueeze(1) - code.unsqueeze(0) + bias_center(p.table_window)).reshape(-1)
    pairs = dbias[:, p.extra :, p.extra :].reshape(p.heads, product(p.window) ** 2)
    table = torch.zeros(p.heads, p.bias_table.shape[0], dtype=dbias.dtype, device=dbias.device)
    return table.index_add_(1, index, pairs).t().contiguous().to(p.bias_table.dtype), None
