"""The selective scan on a CPU against mambapy's parallel scan and our own chunked torch form.

One direction, B = 1, S = 16, float32, softplus, skip and gate; forward + backward. Target: at least 15 times faster than the
quicker of the two, peak memory within 10 % of inputs and outputs. Run: python kernels/benchmarks/bench_selective_scan.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Work, interleaved, peak_memory, require_close, save
from torch import Tensor
from torch.nn import functional

from medseg_kernels import selective_scan, short_conv

SHAPES = [(4096, 96), (32768, 96), (4096, 192), (32768, 192)]
STATE = 16
Call = Callable[[], tuple[Tensor, ...]]


def inputs(length: int, channels: int) -> dict[str, Tensor]:
    """Leaves on a grid of (length / 256, 16, 16) tokens."""
    torch.manual_seed(0)
    grid = (length // 256, 16, 16)
    given = {name: torch.randn(1, *grid, channels) for name in ("u", "delta", "z")}
    given |= {name: torch.randn(1, *grid, STATE) for name in ("B", "C")}
    given |= {
        "A": -torch.rand(channels, STATE) - 0.5,
        "D": torch.randn(channels),
        "delta_bias": torch.randn(channels) - 3,
    }
    return {name: x.requires_grad_() for name, x in given.items()}


def ours(given: dict[str, Tensor], backend: str, traversal: str = "raster") -> Tensor:
    """Our function."""
    return selective_scan(**given, delta_softplus=True, traversals=[traversal], backend=backend)


def mambapy(given: dict[str, Tensor]) -> Tensor:
    """The same with the scan of mambapy, as its MambaBlock calls it."""
    from mambapy.pscan import pscan

    flat = {name: x.flatten(1, 3) for name, x in given.items() if x.dim() == 5}
    delta = functional.softplus(flat["delta"] + given["delta_bias"])
    decay = torch.exp(delta.unsqueeze(-1) * given["A"])
    drive = (delta.unsqueeze(-1) * flat["B"].unsqueeze(2)) * flat["u"].unsqueeze(-1)
    y = (pscan(decay, drive) @ flat["C"].unsqueeze(-1)).squeeze(3) + given["D"] * flat["u"]
    return (y * functional.silu(flat["z"])).view(given["u"].shape)


def both_ways(forward: Callable[[], Tensor], given: dict[str, Tensor], grad: Tensor) -> Call:
    """Forward and backward, with nothing accumulated."""
    return lambda: torch.autograd.grad(forward(), tuple(given.values()), grad)


def memory_work(length: int, channels: int) -> Work:
    """Forward and backward for the measurement of memory; the outputs are the scan's and all gradients."""
    given = inputs(length, channels)
    grad = torch.randn(given["u"].shape)

    def call() -> list[Tensor]:
        out = ours(given, "cpu")
        return [out, *torch.autograd.grad(out, tuple(given.values()), grad)]

    return Work(call, [*given.values(), grad])


def measure(length: int, channels: int) -> dict[str, Any]:
    """One row of the table."""
    given = inputs(length, channels)
    grad = torch.randn(given["u"].shape)
    forwards: dict[str, Callable[[], Tensor]] = {
        "cpu": lambda: ours(given, "cpu"),
        "reference": lambda: ours(given, "reference"),
        "mambapy": lambda: mambapy(given),
    }
    expected = ours({name: x.detach().double() for name, x in given.items()}, "reference")
    errors = {name: require_close(name, call().detach(), expected, 1e-4) for name, call in forwards.items()}
    rounds, often = (5, 3) if length < 10000 else (1, 7)
    full = {name: both_ways(call, given, grad) for name, call in forwards.items()}
    seconds = interleaved(full, rounds, {"cpu": often})
    alone = interleaved({"cpu forward": lambda: ours(given, "cpu")}, 10)
    quickest = min(seconds["reference"]["median_s"], seconds["mambapy"]["median_s"])
    return {
        "tokens": length,
        "channels": channels,
        "forward_backward": seconds,
        "forward": alone,
        "times_faster_than_quicker": quickest / seconds["cpu"]["median_s"],
        "memory": peak_memory(__file__, "memory_work", [256, 16], [length, channels]),
        "errors": errors,
    }


def traversal_cost() -> dict[str, Any]:
    """What an order other than the memory's costs, and what the short convolution in front of the scan costs."""
    given = inputs(32768, 96)
    taps = torch.randn(96, 4)
    names = ("raster", "raster:ZYX", "snake", "hilbert", "windowed:4,4,4")
    calls: dict[str, Callable[[], Any]] = {n: (lambda n=n: ours(given, "cpu", n)) for n in names}
    calls["permuted copies, raster:ZYX"] = lambda: _with_copies(given)
    calls["short_conv, causal, 4 taps"] = lambda: short_conv(given["u"], taps, silu=True, backend="cpu")
    return interleaved(calls, 9)


def _with_copies(given: dict[str, Tensor]) -> Tensor:
    turned = {n: x.permute(0, 3, 2, 1, 4).contiguous() if x.dim() == 5 else x for n, x in given.items()}
    return ours(turned, "cpu").permute(0, 3, 2, 1, 4).contiguous()


def main() -> None:
    table: dict[str, Any] = {"target": "15x, memory 1.10", "rows": []}
    for shape in SHAPES:
        row = measure(*shape)
        cpu = row["forward_backward"]["cpu"]["median_s"] * 1e3
        print(
            f"{row['tokens']:6d} x {row['channels']}: {cpu:7.1f} ms forward + backward, "
            f"{row['times_faster_than_quicker']:.1f}x faster, memory {row['memory']['peak_over_inputs_and_outputs']:.3f}"
        )
        table["rows"].append(row)
        save("selective_scan", table)  # after every row: the large shapes take minutes on a busy machine
    table["forward_of_orders_32768x96"] = traversal_cost()
    save("selective_scan", table)


if __name__ == "__main__":
    main()
