"""The `cpu` backend: hands a problem's pointers, strides and workspaces to `cpu.cpp`."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels import cpu_build

from .call import Gradients, Problem
from .windows import bias_center, bias_codes

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MOST_CHANNELS = 128
# Above this many bytes the bias of all pairs is not laid out; its rows are made where they are needed.
BIAS_BYTES = 1 << 26
AXES = ctypes.c_int64 * 3


class _View(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "x", "y", "z", "head", "channel")),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, _View) for name in ("q", "k", "v", "carriers", "sample", "padding", "out", "out_carriers")),
        *((name, _View) for name in ("grad", "grad_carriers", "dq", "dk", "dv", "dcarriers")),
        *((name, ctypes.c_void_p) for name in ("lse", "dpadding", "dbias", "table", "dense", "code", "bias", "work")),
        *((name, ctypes.c_int64) for name in ("work_size", "table_rows", "center")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "channels", "extra", "tokens")),
        *((name, AXES) for name in ("grid", "window", "shift", "radius", "counts")),
        *((name, ctypes.c_int64) for name in ("groups", "causal", "dilated", "hide_padding", "shared_query")),
        *((name, ctypes.c_int64) for name in ("format", "threads", "seed")),
        ("scale", ctypes.c_float),
        ("dropout", ctypes.c_float),
    )


def refuse(*tensors: Tensor) -> str | None:
    """None when these tensors can be computed, else the reason."""
    if not tensors:
        return None
    qkv = tensors[0]
    if qkv.dtype not in FORMATS:
        return f"it computes in float32 and qkv is {qkv.dtype}"
    if qkv.shape[-1] > MOST_CHANNELS:
        return f"it serves up to {MOST_CHANNELS} channels per head, not {qkv.shape[-1]}"
    return None


def _library() -> ctypes.CDLL:
    library = cpu_build.load(Path(__file__).with_name("cpu.cpp"))
    library.window_attention_work.restype = ctypes.c_int64
    library.window_attention_stride.restype = ctypes.c_int64
    library.window_attention_stride.argtypes = [ctypes.c_int64]
    return library


def _view(tensor: Tensor, *axes: str) -> _View:
    """A tensor's pointer and the strides of its named axes."""
    assert tensor.dim() == len(axes)
    return _View(data=tensor.data_ptr(), **dict(zip(axes, tensor.stride(), strict=True)))


def _grid_view(tensor: Tensor) -> _View:
    return _view(tensor, "batch", "x", "y", "z", "head", "channel")


def _token_view(tensor: Tensor, heads: int) -> _View:
    """Of an output (B, X, Y, Z, H * E)."""
    return _grid_view(tensor.unflatten(-1, (heads, -1)))


def _carrier_view(tensor: Tensor, heads: int) -> _View:
    """Of the carriers' output (B, W, M, H * E)."""
    return _view(tensor.unflatten(-1, (heads, -1)), "batch", "x", "y", "head", "channel")


class _Prepared:
    """A filled `_Call`, and the tensors that its pointers point into."""

    def __init__(self, p: Problem, groups: int) -> None:
        q, k, v = p.roles(p.qkv, p.kv, p.global_query)
        call = _Call(
            batch=p.batch, heads=p.heads, channels=p.channels, extra=p.extra, tokens=p.tokens,
            grid=AXES(*p.grid), window=AXES(*p.window), shift=AXES(*p.shift), radius=AXES(*p.radius), counts=AXES(*p.counts),
            causal=p.causal, dilated=p.geometry == "grid", hide_padding=p.pad_mode == "mask",
            shared_query=p.global_query is not None, format=FORMATS[p.qkv.dtype], scale=p.scale, dropout=p.dropout,
            threads=torch.get_num_threads(), groups=groups, center=bias_center(p.table_window),
            seed=0 if p.seed is None else int(p.seed.item()),
        )  # fmt: skip
        call.q = _view(q, "batch", "y", "head", "channel") if p.global_query is not None else _grid_view(q)
        call.k, call.v = _grid_view(k), _grid_view(v)
        if p.carriers is not None:
            call.carriers = _view(p.carriers, "batch", "x", "y", "z", "head", "channel")
        if p.sample is not None:
            call.sample = _view(p.sample, "batch", "z", "head", "channel")
        if p.padding is not None:
            call.padding = _view(p.padding, "z", "head", "channel")
        self.call, self.problem, self.library = call, p, _library()
        self.kept: list[Tensor] = [q, k, v]
        self._bias()

    def own(self, tensor: Tensor) -> int:
        """Keep a tensor for the call; its pointer."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def _bias(self) -> None:
        p, call = self.problem, self.call
        if p.bias_table is not None:
            call.table = self.own(p.bias_table.detach().to(torch.float32).contiguous())
            call.table_rows = p.bias_table.shape[0]
            code = bias_codes(p.table_window, p.window, p.bias_index, p.qkv.device)
            call.code = self.own(code.to(torch.int32))
        if p.dense_bias is not None:
            call.dense = self.own(p.dense_bias.detach().to(torch.float32).contiguous())
        floats = p.heads * p.tokens * self.library.window_attention_stride(p.tokens)
        any_bias = p.bias_table is not None or p.dense_bias is not None or p.causal or max(p.radius) >= 0
        if any_bias and 4 * floats <= BIAS_BYTES:
            call.bias = self.own(torch.empty(floats))

    def workspace(self, backward: bool) -> None:
        """Allocate what the threads need; after `dbias` is set."""
        size = self.library.window_attention_work(ctypes.byref(self.call), ctypes.c_int64(backward))
        self.call.work_size = size
        self.call.work = self.own(torch.empty(size * self.call.threads))


def forward(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, carriers, log-sum-exp (B, W, H, U))."""
    p = problem
    prepared = _Prepared(p, max(1, min(p.windows, 64)))
    call = prepared.call
    out = p.qkv.new_empty(p.batch, *p.grid, p.heads * p.channels)
    carriers = p.qkv.new_empty(p.batch, p.windows, p.extra, p.heads * p.channels)
    lse = torch.empty(p.batch, p.windows, p.heads, p.tokens)
    call.out, call.out_carriers = _token_view(out, p.heads), _carrier_view(carriers, p.heads)
    call.lse = lse.data_ptr()
    prepared.workspace(False)
    prepared.library.window_attention_forward(ctypes.byref(call))
    return out, carriers, lse


def backward(
    problem: Problem, out: Tensor, out_carriers: Tensor, lse: Tensor, grad: Tensor, grad_carriers: Tensor
) -> Gradients:
    """Gradients of all tensors; sums over windows are taken per group of windows, the same whatever the threads."""
    p = problem
    # A group's pair gradients are brought to the table once, so groups of a few windows; dense ones are kept whole.
    groups = max(1, min(p.windows // 4, 4 if p.dense_bias is not None else 32))
    prepared = _Prepared(p, groups)
    call = prepared.call
    found = _gradient_tensors(p, call)
    call.grad, call.grad_carriers = _token_view(grad, p.heads), _carrier_view(grad_carriers, p.heads)
    call.out, call.out_carriers = _token_view(out, p.heads), _carrier_view(out_carriers, p.heads)
    call.lse = lse.data_ptr()
    shape, pairs, padding = (p.heads, p.batch, groups), None, None
    if p.bias_table is not None:
        pairs = torch.empty(*shape, p.bias_table.shape[0])
    elif p.dense_bias is not None:
        pairs = torch.empty(*shape, p.tokens, p.tokens)
        if call.bias is None:
            pairs.zero_()
    if pairs is not None:
        call.dbias = pairs.data_ptr()
    if p.padded and p.pad_mode == "input":
        padding = torch.empty(*shape, 3, p.channels)
        call.dpadding = padding.data_ptr()
    prepared.workspace(True)
    prepared.library.window_attention_backward(ctypes.byref(call))
    _sum_partials(p, found, pairs, padding)
    return found


def _gradient_tensors(p: Problem, call: _Call) -> Gradients:
    """Dense tensors for the gradients that the kernel writes, entered into the call."""
    found = Gradients(qkv=torch.empty_like(p.qkv, memory_format=torch.contiguous_format))
    if p.kv is not None:
        found.kv = torch.empty_like(p.kv, memory_format=torch.contiguous_format)
    if p.global_query is not None:
        # one query gradient per window, added up afterwards; rows of padded queries stay zero
        per_window = torch.zeros(p.batch, p.windows, p.tokens - p.extra, p.heads, p.channels)
        _, dk, dv = p.roles(found.qkv, None, p.global_query)
        found.global_query = per_window
        call.dq = _view(per_window, "batch", "x", "y", "head", "channel")
    else:
        dq, dk, dv = p.roles(found.qkv, found.kv, None)
        call.dq = _grid_view(dq)
    call.dk, call.dv = _grid_view(dk), _grid_view(dv)
    if p.carriers is not None:
        found.carriers = torch.empty_like(p.carriers, memory_format=torch.contiguous_format)
        call.dcarriers = _view(found.carriers, "batch", "x", "y", "z", "head", "channel")
    return found


def _sum_partials(p: Problem, found: Gradients, pairs: Tensor | None, padding: Tensor | None) -> None:
    """Add what the tasks summed apart: table or dense bias, padding, shared query, sample vector."""
    if p.bias_table is not None and pairs is not None:
        found.bias_table = pairs.sum((1, 2)).t().contiguous().to(p.bias_table.dtype)
    elif p.dense_bias is not None and pairs is not None:
        found.dense_bias = pairs.sum((1, 2)).to(p.dense_bias.dtype)
    per_window = found.global_query
    if per_window is not None:
        found.global_query = per_window.sum(1).to(p.qkv.dtype)
    if p.padding is not None:
        total = torch.zeros_like(p.padding, dtype=torch.float32, memory_format=torch.contiguous_format)
        if padding is not None:
            total = padding.sum((1, 2)).transpose(0, 1)
        found.padding = total.to(p.qkv.dtype).contiguous()
    if p.sample is not None:
        dq, dk, dv = p.roles(found.qkv, found.kv, None if per_window is None else per_window.sum(1))
        parts = [part.flatten(1, -3).sum(1, dtype=torch.float32) for part in (dq, dk, dv)]  # each (B, H, E)
        total = torch.stack(parts, dim=1)
        if padding is not None:
            total = total + padding.sum(2).permute(1, 2, 0, 3)
        found.sample = total.to(p.qkv.dtype)
