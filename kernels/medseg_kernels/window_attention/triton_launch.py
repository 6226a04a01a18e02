"""The `triton` backend: hands a problem's tensors, strides and settings to the kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medseg_kernels.tape import launch

from .call import Gradients, Problem
from .dropout import threshold
from .tables import BiasTables, bias_tables, pitch, window_tables
from .windows import bias_center, product

LOG2E = math.log2(math.e)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_CHANNELS = 128
MANY = 264  # windows times heads from which one program for each fills a large chip
MOST_BYTES = 64 * 2**20  # of a bias expanded to all pairs


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


def tile_options(kernel: str, tokens: int, channels: int, itemsize: int, amd: bool) -> dict[str, int]:
    """BQ and BK (queries and keys of a tile), warps and stages of one kernel, by what the cost model (tests/kernels/model) says.

    A warp of NVIDIA's matrix units takes 16 rows at least: more warps than rows / 16 would all do the same work. float32 has no
    matrix units (TF32 would lose digits): its tiles lie in registers, over 8 warps.

    Args:
        kernel: "forward", "fused", "query", "key" or "bias".
        tokens: of a window, carriers included.
        channels: per head.
        itemsize: bytes of a number.
        amd: for AMD's GPUs, whose warps have 64 lanes and more registers.
    """
    most = 64 if channels <= 64 else 32
    size = max(16, min(most, 1 << (tokens - 1).bit_length()))
    short = min(size, 32)
    if amd:
        return {"BQ": size, "BK": short if kernel == "forward" else size, "num_warps": 4, "num_stages": 2}
    if itemsize == 4 and channels >= 32 and size >= 32:
        sizes = {"forward": (size, 32), "bias": (32, size)}.get(kernel, (32, 32))
        return {"BQ": sizes[0], "BK": sizes[1], "num_warps": 4 if kernel == "query" else 8, "num_stages": 2}
    if (
        kernel == "fused"
        and _padded(tokens, 64) ** 2 > 1.1 * _padded(tokens, 32) ** 2
        and size == 64
        and channels <= 16
    ):
        return {
            "BQ": 32,
            "BK": 32,
            "num_warps": 2,
            "num_stages": 3,
        }  # 343 tokens: 384^2 scores are 19 % more than 352^2
    whole = size if channels <= 32 and tokens % size == 0 else short
    sizes_of = {"forward": (size, whole), "query": (size, short), "bias": (short, size)}
    queries, keys = sizes_of.get(kernel, (size, size))
    stages = 3 if kernel in ("key", "fused") else 2
    return {"BQ": queries, "BK": keys, "num_warps": max(1, min(4, size // 16)), "num_stages": stages}


def _padded(tokens: int, tile: int) -> int:
    """Tokens of whole tiles."""
    return -(-tokens // tile) * tile


def _flat(x: Tensor) -> Tensor:
    """(B, X, Y, Z, H, E) -> (B, N, H, E) with neighbouring channels side by side; a copy only of what is no such view."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    try:
        return x.view(x.shape[0], -1, *x.shape[4:])
    except RuntimeError:
        return x.contiguous().view(x.shape[0], -1, *x.shape[4:])


class _Launch:
    """Arguments that all kernels of one problem share."""

    def __init__(self, p: Problem) -> None:
        self.problem = p
        q, k, v = p.roles(p.qkv, p.kv, p.global_query)
        k, v = _flat(k), _flat(v)
        if p.global_query is None:
            q = _flat(q)
        elif q.stride(-1) != 1:
            q = q.contiguous()
        if k.stride() != v.stride():
            k, v = k.contiguous(), v.contiguous()
        self.carriers = q  # any pointer will do for what is absent
        if p.carriers is not None:
            self.carriers = p.carriers.contiguous()
        sample = q if p.sample is None else p.sample.float().contiguous()
        padding = q if p.padding is None else p.padding.float().contiguous()
        self.tables, self.bias, self.kind, self.plane = window_tables(p), q, 0, 0
        self.codes: BiasTables | None = None
        if p.bias_table is not None or p.dense_bias is not None:
            self._bias()
        row, column = (
            (self.tables.rows, self.tables.rows) if self.codes is None else (self.codes.row, self.codes.column)
        )
        self.tensors = {
            "q": q, "k": k, "v": v, "carriers": self.carriers, "sample": sample, "padding": padding, "bias": self.bias,
            "row_code": row, "column_code": column, "rows": self.tables.rows, "groups": self.tables.groups,
            "seed": q if p.seed is None else p.seed,
        }  # fmt: skip

    def _bias(self) -> None:
        """The bias as the kernels read it: expanded to a tile of all pairs, or gathered where that would be too large."""
        from .triton_backward import expand_kernel

        p = self.problem
        given, self.kind = (p.bias_table, 1) if p.bias_table is not None else (p.dense_bias, 2)
        assert given is not None
        self.bias, self.codes, side = given.detach().contiguous(), bias_tables(p), pitch(p.tokens)
        self.plane = p.tokens * p.tokens
        # a table holds small numbers; a dense bias may hide pairs by numbers that 16 bits have not
        small = p.qkv.dtype != torch.float32 and self.kind == 1
        dense = p.qkv.new_empty(p.heads, side, side, dtype=torch.float16 if small else torch.float32)
        if dense.numel() * dense.element_size() > MOST_BYTES:
            return
        launch(
            expand_kernel,
            ((side // 32) * (side // 64), p.heads),
            self.bias,
            dense,
            self.codes.row,
            self.codes.column,
            p.heads,
            side,
            self.plane,
            **self._pairs(),
            BQ=32,
            BK=64,
        )
        self.bias, self.kind, self.plane = dense, 3, side * side

    def _pairs(self) -> dict[str, Any]:
        """Compile-time settings of the predicate and the bias."""
        p = self.problem
        free = p.extra if p.bias_table is not None else 0
        return {"U": p.tokens, "M": p.extra, "W1": p.window[1], "W2": p.window[2], "FREE": free, "KIND": self.kind,
                "CAUSAL": p.causal, "R0": p.radius[0], "R1": p.radius[1], "R2": p.radius[2]}  # fmt: skip

    def settings(self, kernel: str) -> dict[str, Any]:
        """Sizes, strides, factors, compile-time flags and tiles of one kernel; "blocks" are its tiles of a window-head."""
        p, q, k = self.problem, self.tensors["q"], self.tensors["k"]
        options = tile_options(kernel, p.tokens, p.channels, p.qkv.dtype.itemsize, torch.version.hip is not None)
        queries, keys = -(-p.tokens // options["BQ"]), -(-p.tokens // options["BK"])
        tail = p.tokens % options["BQ"] + p.tokens % options["BK"]
        blocks = keys if kernel in ("key", "bias", "fused") else queries
        return {
            **self.tensors, **self._pairs(), **options, "blocks": blocks, "qb": q.stride(0), "qn": q.stride(1),
            "qh": q.stride(2), "kb": k.stride(0), "kn": k.stride(1), "kh": k.stride(2), "H": p.heads, "windows": p.windows,
            "size_n": product(p.grid), "pitch": self.tables.rows.shape[1], "plane": self.plane, "scale": p.scale * LOG2E,
            "threshold": threshold(p.dropout), "kept": 1.0 / (1.0 - p.dropout), "E": p.channels,
            "EB": max(16, 1 << (p.channels - 1).bit_length()), "MASKED": self.tables.masked or tail > 0,
            "SHARED": p.global_query is not None, "HAS": (p.sample is not None) + 2 * (p.padding is not None),
            "DROP": p.dropout > 0.0,
        }  # fmt: skip


def forward(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, carriers, log-sum-exp (B, W, H, U))."""
    from .triton_forward import forward_kernel

    p, common = problem, _Launch(problem)
    out = p.qkv.new_empty(p.batch, *p.grid, p.heads * p.channels)
    carriers = p.qkv.new_empty(p.batch, p.windows, p.extra, p.heads * p.channels)
    lse = p.qkv.new_empty(p.batch, p.windows, p.heads, p.tokens, dtype=torch.float32)
    settings = common.settings("forward")
    grid = (p.batch * p.windows * p.heads * settings["blocks"],)
    launch(forward_kernel, grid, out=out, out_carriers=carriers, lse=lse, **settings)
    return out, carriers, lse


def backward(
    problem: Problem, out: Tensor, out_carriers: Tensor, lse: Tensor, grad: Tensor, grad_carriers: Tensor
) -> Gradients:
    """Gradients of all tensors, without atomics."""
    from .triton_backward import key_kernel, query_kernel

    p, common = problem, _Launch(problem)
    shared: dict[str, Any] = {
        "grad": grad.contiguous(), "lse": lse, "delta": torch.empty_like(lse),
        "grad_carriers": grad_carriers.contiguous(),
    }  # fmt: skip
    found = Gradients(qkv=torch.empty_like(p.qkv, memory_format=torch.contiguous_format))
    if p.kv is not None:
        found.kv = torch.empty_like(p.kv, memory_format=torch.contiguous_format)
    per_window = None
    if p.global_query is not None:
        shape = (p.batch, p.windows, p.tokens - p.extra, p.heads, p.channels)
        per_window = p.qkv.new_empty(shape, dtype=torch.float32)
    dq, dk, dv = p.roles(found.qkv, found.kv, per_window)
    dcarriers = common.carriers if p.carriers is None else torch.empty_like(common.carriers)
    tasks, sums = p.batch * p.windows * p.heads, p.padded and p.pad_mode == "input"
    key = common.settings("fused" if tasks >= MANY else "key")
    parts = key["blocks"] if sums else 0
    dpadding = p.qkv.new_empty(p.batch, p.windows, parts, 3, p.heads, p.channels, dtype=torch.float32)
    shared |= {"dq": dq, "dcarriers": dcarriers, "factor": p.scale}
    shared |= {"out": out, "out_carriers": out_carriers, "dk": dk, "dv": dv, "dpadding": dpadding}
    to_q = _steps(dq if per_window is None else dk)  # a shared query's gradient needs no strides
    if tasks >= MANY:
        from .triton_fused import fused_kernel

        partial = p.qkv.new_empty(tasks, key["pitch"], key["EB"], dtype=torch.float32)
        steps = {**_steps(dk), **{f"q{name}": step for name, step in to_q.items()}}
        _start(fused_kernel, tasks, shared, key, SUM_PADDING=sums, partial=partial, **steps)
    else:
        query = common.settings("query")
        _start(query_kernel, tasks * query["blocks"], shared, query, **to_q)
        _start(key_kernel, tasks * key["blocks"], shared, key, SUM_PADDING=sums, **_steps(dk))
    if p.carriers is not None:
        found.carriers = dcarriers
    if p.bias_table is not None or p.dense_bias is not None:
        _bias_gradients(common, shared, found)
    _sum_partials(p, found, per_window, dpadding if sums else None)
    return found


def _start(kernel: Any, programs: int, shared: dict[str, Any], settings: dict[str, Any], **more: Any) -> None:
    """Launch with those of the arguments that the kernel has."""
    known = {**shared, **settings, **more}
    options = {name: settings[name] for name in ("num_warps", "num_stages")}
    launch(kernel, (programs,), **{name: known[name] for name in kernel.arg_names}, **options)


def _steps(tensor: Tensor) -> dict[str, int]:
    """db, dn, dh: strides of a gradient (B, X, Y, Z, H, E), dense by tokens and channels."""
    return {"db": tensor.stride(0), "dn": tensor.stride(3), "dh": tensor.stride(4)}


def _bias_gradients(common: _Launch, shared: dict[str, Any], found: Gradients) -> None:
    """Gradient of the bias of all pairs per group of windows, then of the table or the dense bias."""
    from .triton_backward import bias_kernel, table_kernel

    p, settings = common.problem, common.settings("bias")
    tiles = -(-p.tokens // settings["BQ"]) * settings["blocks"]
    groups = max(1, min(p.batch * p.windows // 4, 1024 // max(1, tiles * p.heads), 16))
    pairs = p.qkv.new_empty(groups, p.heads, p.tokens, p.tokens, dtype=torch.float32)
    known = {**shared, **settings, "dpairs": pairs, "B": p.batch}
    options = {name: settings[name] for name in ("num_warps", "num_stages")}
    launch(bias_kernel, (tiles, p.heads, groups), **{name: known[name] for name in bias_kernel.arg_names}, **options)
    total = pairs.sum(0) if groups > 1 else pairs[0]
    if p.dense_bias is not None:
        found.dense_bias = total.to(p.dense_bias.dtype)
        return
    assert p.bias_table is not None
    assert common.codes is not None
    rows, tokens = p.bias_table.shape[0], product(p.window)
    table = torch.empty_like(p.bias_table, memory_format=torch.contiguous_format)
    launch(
        table_kernel, (-(-rows // 8), p.heads),
        total, common.codes.codes, common.codes.inverse, table, p.heads, tokens, p.tokens, bias_center(p.table_window), rows,
        M=p.extra, BR=8, BI=128,
    )  # fmt: skip
    found.bias_table = table


def _sum_partials(p: Problem, found: Gradients, per_window: Tensor | None, dpadding: Tensor | None) -> None:
    """Add what programs summed apart: shared query, padding, sample vector."""
    shared_query = None if per_window is None else per_window.sum(1)
    if shared_query is not None:
        found.global_query = shared_query.to(p.qkv.dtype)
    if p.padding is None and p.sample is None:
        return
    if p.padding is not None:
        found.padding = torch.zeros_like(p.padding) if dpadding is None else dpadding.sum((0, 1, 2)).to(p.qkv.dtype)
    if p.sample is not None:
        if p.kv is None and shared_query is None:
            total = found.qkv.flatten(1, 3).sum(1, dtype=torch.float32)
        else:
            dq, dk, dv = p.roles(found.qkv, found.kv, shared_query)
            total = torch.stack([part.flatten(1, -3).sum(1, dtype=torch.float32) for part in (dq, dk, dv)], dim=1)
        if dpadding is not None:
            total += dpadding.sum((1, 2))
        found.sample = total.to(p.qkv.dtype)
