"""Part 2: how fast the kernels are, each by three numbers (graph replay, eager, host), beside what they mean to beat."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from gpu_parts.timing import dearest, three_numbers
from torch import Tensor

import medseg_kernels as kernels
from medseg_kernels import prepared

ORIENTED = ["raster", "reversed raster", "raster:YZX"]


def jobs(dry: bool) -> list[dict[str, Any]]:
    """One process per subject; the dearest questions first, FlexAttention last."""
    if dry:
        return [{"name": "all", "seconds": 300}]
    return [{"name": name, "seconds": seconds} for name, (_, seconds) in SUBJECTS.items()]


def run(job: dict[str, Any], steps: Any, dry: bool, crops: Any) -> None:
    """A subject, or all of them at tiny sizes."""
    for name in [n for n in SUBJECTS if n not in RIVALS_ONLY] if dry else [job["name"]]:
        for label, call in SUBJECTS[name][0]("cpu" if dry else "cuda", dry):
            steps.add("kernels", f"{name} {label}", **three_numbers(call), kernels=dearest(call))
        if not dry and name in VARIANTS:
            VARIANTS[name](steps)


Contenders = list[tuple[str, Callable[[], Any]]]


def _both(call: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward and backward, gradients not added up."""

    def run() -> Any:
        out = call()
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return run


def _pairs(call: Callable[[], Tensor], leaves: list[Tensor], label: str = "ours") -> Contenders:
    def forward() -> Any:
        with torch.no_grad():
            return call()

    return [(f"{label} forward", forward), (f"{label} both", _both(call, leaves))]


def _random(device: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()


def window(side: int, heads: int, size: int) -> Callable[[str, bool], Contenders]:
    """A shifted block beside MONAI's module and SDPA with a mask, both on ready windows."""

    def make(device: str, dry: bool) -> Contenders:
        from window_contenders import Monai, Plain, Shape, to_windows

        shape = Shape(6 if dry else side, 3 if dry else size, heads, 16, shifted=True)
        qkv = _random(device, 1, *shape.grid, 3, heads, 16)
        table = _random(device, (2 * shape.window - 1) ** 3, heads, dtype=torch.float32)
        half = [shape.window // 2] * 3
        found = _pairs(lambda: kernels.window_attention(qkv, [shape.window] * 3, half, table), [qkv, table])
        if importlib.util.find_spec("monai") is None:
            return found
        windows = to_windows(shape, qkv).detach().requires_grad_()
        monai, sdpa = Monai(shape, device), Plain(shape, device, sdpa=True)
        if dry:
            return found + _pairs(lambda: sdpa(windows, table), [windows, table], "sdpa")[1:]
        found += _pairs(lambda: monai(windows, table.to(windows.dtype)), [windows, table], "monai")[1:]
        return found + _pairs(lambda: sdpa(windows, table), [windows, table], "sdpa")[1:]

    return make


def scan(side: int, channels: int, traversals: list[str]) -> Callable[[str, bool], Contenders]:
    """SegMamba's mixer; the rival is mamba_ssm on permuted copies where a library is installed."""

    def make(device: str, dry: bool) -> Contenders:
        n = 4 if dry else side
        u, delta, z = (_random(device, 1, n, n, n, channels) for _ in range(3))
        write, read = (_random(device, 1, n, n, n, 16) for _ in range(2))
        rate = -torch.rand(channels, 16, device=device).add(0.5).requires_grad_()
        rate = rate.detach().requires_grad_()
        call = lambda: kernels.selective_scan(  # noqa: E731
            u, delta, rate, write, read, z=z, delta_softplus=True, traversals=traversals
        )
        found = _pairs(call, [u, delta, rate, write, read, z])
        if importlib.util.find_spec("selective_scan_cuda") is None or dry:
            return found
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        def permuted() -> Tensor:
            total: Any = 0
            for axes in ((1, 2, 3), (1, 2, 3), (2, 3, 1)):
                rows = [x.permute(0, 4, *axes).flatten(2).contiguous() for x in (u, delta, write, read, z)]
                y = selective_scan_fn(rows[0], rows[1], rate, rows[2], rows[3], z=rows[4], delta_softplus=True)
                total = total + y
            return total

        return found + _pairs(permuted, [u, delta, rate, write, read, z], "mamba_ssm with copies")

    return make


def recurrence(delta: bool, traversal: str) -> Callable[[str, bool], Contenders]:
    """6 heads of 64 channels over 48^3 tokens, beside flash-linear-attention on the sequence where it is installed."""

    def make(device: str, dry: bool) -> Contenders:
        n = 4 if dry else 48
        q, k, v = (_random(device, 1, n, n, n, 6, 64) for _ in range(3))
        gate = torch.rand(1, n, n, n, 6, device=device)
        g, beta = (-gate).requires_grad_(), gate.clone().requires_grad_() if delta else None
        leaves = [x for x in (q, k, v, g, beta) if x is not None]
        found = _pairs(lambda: kernels.gated_linear_recurrence(q, k, v, g, beta, traversals=[traversal])[0], leaves)
        if importlib.util.find_spec("fla") is None or dry:
            return found
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        from fla.ops.simple_gla import chunk_simple_gla

        rows = [x.flatten(1, 3) for x in leaves]

        def rival() -> Tensor:
            if delta:
                return chunk_gated_delta_rule(rows[0], rows[1], rows[2], rows[3], rows[4])[0]
            return chunk_simple_gla(rows[0], rows[1], rows[2], rows[3])[0]

        return found + _pairs(rival, leaves, "flash-linear-attention")

    return make


def conv(device: str, dry: bool) -> Contenders:
    """Mamba's short convolution along three traversals."""
    n = 4 if dry else 64
    x = _random(device, 1, n, n, n, 96)
    weight = _random(device, 3, 96, 4, dtype=torch.float32)
    return _pairs(lambda: kernels.short_conv(x, weight, traversals=ORIENTED, silu=True), [x, weight])


def stitch(device: str, dry: bool) -> Contenders:
    """105 classes: a window added to a slab, and its labels on a finer grid."""
    n = 8 if dry else 96
    values, weight = torch.zeros(105, n, n, n, device=device, dtype=torch.float16), torch.ones(n, n, n, device=device)
    window_of, share = torch.randn(105, n, n, n, device=device).half(), torch.ones(n, n, n, device=device)
    return [
        ("add", lambda: kernels.stitch_window(values, weight, window_of, share, [0, 0, 0])),
        ("labels", lambda: kernels.resample_argmax(values, (n + n // 2,) * 3)),
    ]


def flex(device: str, dry: bool) -> Contenders:
    """FlexAttention, one shape."""
    from bench_window_attention_gpu import Flex
    from window_contenders import Shape

    shape = Shape(48, 7, 3, 16, shifted=True)
    qkv, table = _random(device, 1, *shape.grid, 3, 3, 16), _random(device, 13**3, 3, dtype=torch.float32)
    call = Flex(shape, device, compiled=True)
    return _pairs(lambda: call(qkv, table), [qkv, table], "flex")


def window_variants(steps: Any) -> None:
    """Other tiles and warps of window attention."""
    from medseg_kernels.window_attention import triton_launch

    make = window(48, 3, 7)
    for queries, keys, warps in ((64, 32, 4), (64, 64, 4), (32, 32, 4), (64, 32, 2), (64, 64, 8)):
        options = {"BQ": queries, "BK": keys, "num_warps": warps, "num_stages": 2}
        prepared.forget()  # a tape holds the tiles that it was recorded with
        with mock.patch.object(triton_launch, "tile_options", return_value=options):
            for label, call in make("cuda", False)[:2]:
                steps.add("kernels", f"window 48 7 {queries}x{keys} {warps} warps {label}", **three_numbers(call, 10))
    prepared.forget()


SUBJECTS: dict[str, tuple[Callable[[str, bool], Contenders], int]] = {
    "window 48 7": (window(48, 3, 7), 40),
    "scan 64 tri": (scan(64, 96, ORIENTED), 40),
    "recurrence scalar": (recurrence(False, "raster:YZX"), 40),
    "recurrence gated delta": (recurrence(True, "raster:YZX"), 40),
    "window 64 8": (window(64, 3, 8), 30),
    "scan 32 C192": (scan(32, 192, ORIENTED), 30),
    "conv": (conv, 20),
    "stitch": (stitch, 20),
    "flex": (flex, 40),
}
RIVALS_ONLY = ("flex",)
VARIANTS = {"window 48 7": window_variants}
