"""The `triton` backend: hands a problem's tensors, strides and settings to the kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .call import Gradients, Problem
from .dropout import threshold
from .windows import bias_center, bias_codes, product

LOG2E = math.log2(math.e)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_CHANNELS = 128
MOST_ROWS = 64  # of a tile, at most


def refuse(*tensors: Tensor) -> str | None:
    """None when these tensors can be computed, else the reason."""
    if not tensors:
        return None
    qkv = tensors[0]
    if qkv.dtype not in DTYPES:
        return f"it computes in float32 and qkv is {qkv.dtype}"
    if qkv.shape[-1] > MOST_CHANNELS:
        return f"it serves up to {MOST_CHANNELS} channels per head, not {qkv.shape[-1]}"
    return None


def tile_options(kernel: str, tokens: int, channels: int, carriers: int, amd: bool) -> dict[str, int]:
    """BQ and BK (queries and keys of a tile), warps and stages of one kernel.

    Chosen so that next to nothing spills on any architecture of the ahead-of-time gate, not by time: no GPU was at hand. The
    backward kernels hold more tiles, so there the side that the loop goes along is half as long.

    Args:
        kernel: "forward", "query", "key" or "bias".
        tokens: of a window, carriers included.
        channels: per head.
        carriers: extra tokens of a window, which are read apart.
        amd: for AMD's GPUs, whose warps have 64 lanes and more registers.
    """
    most = 64 if channels <= 64 else 32
    size = max(16, min(most, 1 << (tokens - 1).bit_length()))
    short = min(size, 32)
    if amd:
        return {"BQ": size, "BK": short if kernel == "forward" else size, "num_warps": 4, "num_stages": 2}
    wide = short if carriers else size
    queries, keys = {"query": (size, short), "key": (short, wide), "bias": (short, size)}.get(kernel, (size, size))
    return {"BQ": queries, "BK": keys, "num_warps": 8 if size >= 32 else 4, "num_stages": 2}


class _Launch:
    """Arguments that all kernels of one problem share."""

    def __init__(self, p: Problem) -> None:
        self.problem = p
        q, k, v = p.roles(p.qkv, p.kv, p.global_query)
        empty = p.qkv.new_empty(0, dtype=torch.float32)
        self.carriers = p.qkv.new_empty(0)
        if p.carriers is not None:  # (B * W * H, M, 3, E): small, and read by rows
            self.carriers = p.carriers.permute(0, 1, 4, 2, 3, 5).contiguous()
        self.sample = empty if p.sample is None else p.sample.float().contiguous()
        self.padding = empty if p.padding is None else p.padding.float().contiguous()
        self.bias, self.entries, self.free = empty, 0, 0
        self.rows = self.columns = torch.zeros(1, dtype=torch.int32, device=p.qkv.device)
        self._bias()
        self.seed = p.seed if p.seed is not None else torch.zeros(1, dtype=torch.int64, device=p.qkv.device)
        self.tensors = {"q": q, "k": k, "v": v, "carriers": self.carriers, "sample": self.sample, "padding": self.padding,
                        "bias": self.bias, "row_code": self.rows, "column_code": self.columns, "seed": self.seed}  # fmt: skip

    def _bias(self) -> None:
        p = self.problem
        if p.bias_table is not None:
            self.bias = (p.bias_table.detach().float() * LOG2E).t().contiguous()
            self.code = bias_codes(p.table_window, p.window, p.bias_index, p.qkv.device)
            # a code of 0 for carriers and beyond the end: with any other code it makes an entry that exists
            code = torch.nn.functional.pad(self.code, (p.extra, MOST_ROWS))
            self.rows, self.columns = (code + bias_center(p.table_window)).to(torch.int32), (-code).to(torch.int32)
            self.entries, self.free = p.bias_table.shape[0], p.extra
        elif p.dense_bias is not None:
            self.bias = (p.dense_bias.detach().float() * LOG2E).contiguous()
            token = torch.arange(p.tokens, dtype=torch.int32, device=p.qkv.device)
            self.columns = torch.nn.functional.pad(token, (0, MOST_ROWS))
            self.rows = self.columns * p.tokens
            self.entries = p.tokens * p.tokens

    def strides(self) -> dict[str, int]:
        """qb ... ve: strides in elements of q, k and v; a shared query has qx for its tokens."""
        q, k, v = self.tensors["q"], self.tensors["k"], self.tensors["v"]
        found: dict[str, int] = {}
        if self.problem.global_query is not None:
            found.update(zip(("qb", "qx", "qh", "qe"), q.stride(), strict=True), qy=0, qz=0)
        else:
            found.update(zip(("qb", "qx", "qy", "qz", "qh", "qe"), q.stride(), strict=True))
        for letter, tensor in (("k", k), ("v", v)):
            found.update(zip([letter + axis for axis in "bxyzhe"], tensor.stride(), strict=True))
        return found

    def settings(self) -> dict[str, Any]:
        """Sizes, factors and compile-time flags."""
        p = self.problem
        names = ("X", "Y", "Z", "n0", "n1", "n2", "s0", "s1", "s2", "W0", "W1", "W2", "R0", "R1", "R2")
        values = (*p.grid, *p.counts, *p.shift, *p.window, *p.radius)
        return dict(
            zip(names, values, strict=True), H=p.heads, E=p.channels, entries=self.entries, scale=p.scale * LOG2E,
            threshold=threshold(p.dropout), kept=1.0 / (1.0 - p.dropout), M=p.extra, FREE=self.free,
            EB=max(16, 1 << (p.channels - 1).bit_length()), DILATED=p.geometry == "grid", HIDE=p.pad_mode == "mask",
            SHARED=p.global_query is not None, HAS=(p.sample is not None) + 2 * (p.padding is not None),
            HAS_BIAS=p.bias_table is not None or p.dense_bias is not None, CAUSAL=p.causal, DROP=p.dropout > 0.0,
        )  # fmt: skip

    def tiles(self, kernel: str) -> tuple[dict[str, int], int, int]:
        """(launch options, tiles of queries, tiles of keys) of one kernel."""
        p, tokens = self.problem, self.problem.tokens
        options = tile_options(kernel, tokens, p.channels, p.extra, torch.version.hip is not None)
        return options, -(-tokens // options["BQ"]), -(-tokens // options["BK"])


def _by_task(tensor: Tensor, heads: int) -> Tensor:
    """(B, W, M, H * E) -> (B, W, H, M, E), as the kernels read carriers."""
    return tensor.unflatten(-1, (heads, -1)).transpose(2, 3).contiguous()


def forward(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, carriers, log-sum-exp (B, W, H, U))."""
    from .triton_forward import forward_kernel

    p, launch = problem, _Launch(problem)
    out = p.qkv.new_empty(p.batch, *p.grid, p.heads * p.channels)
    carriers = p.qkv.new_empty(p.batch, p.windows, p.heads, p.extra, p.channels)
    lse = p.qkv.new_empty(p.batch, p.windows, p.heads, p.tokens, dtype=torch.float32)
    options, blocks, _ = launch.tiles("forward")
    forward_kernel[(p.batch * p.windows * p.heads, blocks)](
        out=out, out_carriers=carriers, lse=lse, **launch.tensors, **launch.strides(), **launch.settings(), **options
    )
    return out, carriers.transpose(2, 3).flatten(3).contiguous(), lse


def backward(
    problem: Problem, out: Tensor, out_carriers: Tensor, lse: Tensor, grad: Tensor, grad_carriers: Tensor
) -> Gradients:
    """Gradients of all tensors, without atomics."""
    from .triton_backward import key_kernel, query_kernel

    p, launch = problem, _Launch(problem)
    shared = {
        "grad": grad.contiguous(), "lse": lse, "delta": torch.empty_like(lse),
        "grad_carriers": _by_task(grad_carriers, p.heads), **launch.tensors, **launch.strides(), **launch.settings(),
    }  # fmt: skip
    found = Gradients(qkv=torch.empty_like(p.qkv, memory_format=torch.contiguous_format))
    if p.kv is not None:
        found.kv = torch.empty_like(p.kv, memory_format=torch.contiguous_format)
    per_window = None
    if p.global_query is not None:
        shape = (p.batch, p.windows, p.tokens - p.extra, p.heads, p.channels)
        per_window = p.qkv.new_empty(shape, dtype=torch.float32)
    dq, dk, dv = p.roles(found.qkv, found.kv, per_window)
    dcarriers = torch.empty_like(launch.carriers)
    (query_options, blocks_q, _), (key_options, _, blocks_k) = launch.tiles("query"), launch.tiles("key")
    tasks, sums = p.batch * p.windows * p.heads, p.padded and p.pad_mode == "input"
    dpadding = p.qkv.new_empty(p.batch, p.windows, p.heads, blocks_k if sums else 0, 2, p.channels, dtype=torch.float32)
    to_q = dq if per_window is None else dk  # a shared query's gradient needs no strides
    query_kernel[(tasks, blocks_q)](
        out=out, out_carriers=_by_task(out_carriers, p.heads), dq=dq, dcarriers=dcarriers, factor=p.scale,
        **_steps(to_q), **shared, **query_options,
    )  # fmt: skip
    key_kernel[(tasks, blocks_k)](
        dk=dk, dv=dv, dcarriers=dcarriers, dpadding=dpadding, factor=p.scale, SUM_PADDING=sums, **_steps(dk), **shared,
        **key_options,
    )  # fmt: skip
    if p.carriers is not None:
        found.carriers = dcarriers.permute(0, 1, 3, 4, 2, 5).contiguous()
    if p.bias_table is not None or p.dense_bias is not None:
        _bias_gradients(launch, shared, found)
    _sum_partials(p, found, per_window, dpadding if sums else None)
    return found


def _steps(tensor: Tensor) -> dict[str, int]:
    """db ... dh: strides of a gradient (B, X, Y, Z, H, E) with dense channels."""
    return dict(zip(("db", "dx", "dy", "dz", "dh"), tensor.stride()[:5], strict=True))


def _bias_gradients(launch: _Launch, shared: dict[str, Any], found: Gradients) -> None:
    """Gradient of the bias of all pairs per group of windows, then of the table or the dense bias."""
    from .triton_backward import bias_kernel, table_kernel

    p = launch.problem
    options, blocks_q, blocks_k = launch.tiles("bias")
    tiles = blocks_q * blocks_k
    groups = max(1, min(p.batch * p.windows // 4, 1024 // max(1, tiles * p.heads), 16))
    pairs = p.qkv.new_empty(groups, p.heads, p.tokens, p.tokens, dtype=torch.float32)
    bias_kernel[(tiles, p.heads, groups)](dpairs=pairs, B=p.batch, **shared, **options)
    if p.dense_bias is not None:
        found.dense_bias = pairs.sum(0).to(p.dense_bias.dtype)
        return
    assert p.bias_table is not None
    rows, tokens = p.bias_table.shape[0], product(p.window)
    inverse = torch.full((rows,), -1, dtype=torch.int32, device=pairs.device)
    inverse[launch.code] = torch.arange(tokens, dtype=torch.int32, device=pairs.device)
    table = p.qkv.new_empty(rows, p.heads, dtype=torch.float32)
    table_kernel[(-(-rows // 128), p.heads)](
        pairs, launch.code.to(torch.int32), inverse, table, p.heads, tokens, p.tokens, bias_center(p.table_window), rows,
        groups, M=p.extra, BR=128,
    )  # fmt: skip
    found.bias_table = table.to(p.bias_table.dtype)


def _sum_partials(p: Problem, found: Gradients, per_window: Tensor | None, dpadding: Tensor | None) -> None:
    """Add what programs summed apart: shared query, padding, sample vector."""
    shared_query = None if per_window is None else per_window.sum(1)
    if shared_query is not None:
        found.global_query = shared_query.to(p.qkv.dtype)
    per_sample = p.qkv.new_zeros(p.batch, 3, p.heads, p.channels, dtype=torch.float32)
    if dpadding is not None:
        per_sample[:, 1:] = dpadding.sum((1, 3)).transpose(1, 2)
    if p.padding is not None:
        found.padding = per_sample.sum(0).to(p.qkv.dtype)
    if p.sample is not None:
        dq, dk, dv = p.roles(found.qkv, found.kv, shared_query)
        parts = [part.flatten(1, -3).sum(1, dtype=torch.float32) for part in (dq, dk, dv)]
        found.sample = (torch.stack(parts, dim=1) + per_sample).to(p.qkv.dtype)
