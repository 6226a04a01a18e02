"""A training step of `medseg_kernels.compat`'s Mamba block on a CPU against the same block in pure torch.

B = 1, L = 32768, d_model = 96 (192 inner channels, S = 16), float32; forward and backward of input and parameters. The
pure torch block is what mamba_ssm computes where its extensions are missing: torch's convolution, projections, and the scan step by
step (`selective_scan_ref`; with unbind, since indexing inside the loop, as published, makes the backward quadratic in L). The
chunked torch form, which runs without a compiler, is timed beside it. Target: at least 15 times faster than the quicker of
both. Run: python kernels/benchmarks/bench_mamba_block.py [--length N] [--rounds N]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import interleaved, require_close, save
from torch import Tensor
from torch.nn import functional

from medseg_kernels.compat.mamba_ssm import Mamba
from medseg_kernels.compat.mamba_ssm.ops.selective_scan_interface import selective_scan_ref

WIDTH, TARGET = 96, 15.0


def pure_torch(block: Mamba, x: Tensor, scan: Callable[..., Any] = selective_scan_ref) -> Tensor:
    """The block without any of our operators."""
    length = x.shape[1]
    u, z = block.in_proj(x).transpose(1, 2).chunk(2, 1)
    u = functional.silu(block.conv1d(u)[..., :length])
    low, write, read = block.x_proj(u.transpose(1, 2)).split([block.dt_rank, block.d_state, block.d_state], -1)
    delta = functional.linear(low, block.dt_proj.weight).transpose(1, 2)
    y = scan(
        u, delta, -torch.exp(block.A_log), write.transpose(1, 2), read.transpose(1, 2), block.D, z, block.dt_proj.bias, True
    )  # fmt: skip
    return block.out_proj(y.transpose(1, 2))


def step(forward: Callable[[], Tensor], leaves: list[Tensor], grad: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward, with nothing accumulated; the output first."""

    def call() -> tuple[Tensor, ...]:
        y = forward()
        return (y, *torch.autograd.grad(y, leaves, grad))

    return call


def with_backend(call: Callable[[], Any], name: str | None) -> Callable[[], Any]:
    """A whole step, forward and backward, on a backend by name."""

    def whole() -> Any:
        if name is not None:
            os.environ["MEDSEG_BACKEND"] = name
        try:
            return call()
        finally:
            os.environ.pop("MEDSEG_BACKEND", None)

    return whole


def main(length: int, rounds: int) -> None:
    """Check, time, print, save."""
    torch.manual_seed(0)
    block, x = Mamba(WIDTH), torch.randn(1, length, WIDTH, requires_grad=True)
    leaves, grad = [x, *block.parameters()], torch.randn(1, length, WIDTH)
    ours = step(lambda: block(x), leaves, grad)
    contenders = {
        "compat": with_backend(ours, None),
        "torch, step by step": step(lambda: pure_torch(block, x), leaves, grad),
        "torch, chunked": with_backend(ours, "reference"),
    }
    truth = [result.detach() for result in contenders["torch, step by step"]()]
    errors = {
        name: max(
            require_close(f"{name}, result {i}", found.detach(), right, 2e-4)
            for i, (found, right) in enumerate(zip(contenders[name](), truth, strict=True))
        )
        for name in ("compat", "torch, chunked")
    }
    times = interleaved(contenders, rounds, {"compat": 3})
    quickest = min(times[name]["median_s"] for name in contenders if name != "compat")
    ratio = quickest / times["compat"]["median_s"]
    for name, found in times.items():
        print(f"{name:22} {found['median_s'] * 1e3:10.1f} ms")
    print(f"{ratio:.1f} times faster than the quicker torch form (target {TARGET:.0f}), errors {errors}")
    found = {"length": length, "d_model": WIDTH, "times": times, "errors": errors, "ratio": ratio, "target": TARGET}
    save("mamba_block", found)


if __name__ == "__main__":
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    main(int(words.get("--length", 32768)), int(words.get("--rounds", 3)))
