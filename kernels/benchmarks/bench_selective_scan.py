"""The selective scan on a CPU against mambapy's parallel scan and our own chunked torch form.

One direction, B = 1, S = 16, float32, softplus, skip and gate; forward + backward; errors against float64, of the output and
of all gradients. Targets: at least 15 times faster than the quicker of the two, errors of the compiled form below 1e-5, peak
memory within 10 % of inputs and outputs. Run: python kernels/benchmarks/bench_selective_scan.py  [--memory: the memory alone]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import Work, interleaved, memory_table, peak_memory, require_close, save
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


def exact(given: dict[str, Tensor], grad: Tensor) -> list[Tensor]:
    """The output and all gradients in float64."""
    leaves = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    out = ours(leaves, "reference")
    return [out.detach(), *torch.autograd.grad(out, tuple(leaves.values()), grad.double())]


def errors_of(
    name: str, forward: Callable[[], Tensor], given: dict[str, Tensor], grad: Tensor, expected: list[Tensor]
) -> dict[str, float]:
    """Largest error over largest value of the output and of each gradient; the compiled form is held to 1e-5."""
    out = forward()
    found = [out.detach(), *torch.autograd.grad(out, tuple(given.values()), grad)]
    bound, labels = (1e-5 if name == "cpu" else 1e-4), ["out", *(f"grad {x}" for x in given)]
    return {
        label: require_close(f"{name}, {label}", a, b, bound)
        for label, a, b in zip(labels, found, expected, strict=True)
    }


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
    expected = exact(given, grad)
    errors = {name: errors_of(name, call, given, grad, expected) for name, call in forwards.items()}
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
    """What an order other than the memory's costs."""
    given = inputs(32768, 96)
    names = ("raster", "raster:ZYX", "snake", "hilbert", "windowed:4,4,4")
    calls: dict[str, Callable[[], Any]] = {n: (lambda n=n: ours(given, "cpu", n)) for n in names}
    calls["permuted copies, raster:ZYX"] = lambda: _with_copies(given)
    return interleaved(calls, 9)


def convolution_cost() -> list[dict[str, Any]]:
    """What the short convolution in front of the scan costs, forward + backward: the most that fusing the two could gain."""
    rows = []
    for length, channels in SHAPES:
        given = inputs(length, channels)
        taps, grad = torch.randn(channels, 4, requires_grad=True), torch.randn(given["u"].shape)
        conv = lambda u=given["u"], taps=taps: short_conv(u, taps, silu=True, backend="cpu")  # noqa: E731
        scan = lambda given=given: ours(given, "cpu")  # noqa: E731
        both = both_ways(conv, {"u": given["u"], "taps": taps}, grad)
        calls = {"conv forward": conv, "scan forward": scan, "conv": both, "scan": both_ways(scan, given, grad)}
        seconds = interleaved(calls, 9)
        ways = {"forward": ("conv forward", "scan forward"), "forward_backward": ("conv", "scan")}
        shares = {
            way: seconds[a]["median_s"] / (seconds[a]["median_s"] + seconds[b]["median_s"])
            for way, (a, b) in ways.items()
        }
        rows.append({"tokens": length, "channels": channels, "seconds": seconds, "share_of_both": shares})
    return rows


def thread_gain() -> list[dict[str, Any]]:
    """Forward of few channels with one thread and with all: segments and traversals occupy what channels do not."""
    rows, most = [], torch.get_num_threads()
    for channels, orders in ((8, ["raster"]), (8, ["raster", "snake", "raster:ZYX"]), (96, ["raster"])):
        given = {name: x.detach() for name, x in inputs(32768, channels).items()}

        def run(count: int, given: dict[str, Tensor] = given, orders: list[str] = orders) -> None:
            torch.set_num_threads(count)
            selective_scan(**given, delta_softplus=True, traversals=orders, backend="cpu")

        seconds = interleaved({f"{n} threads": (lambda n=n, run=run: run(n)) for n in sorted({1, most})}, 15)
        torch.set_num_threads(most)
        gain = seconds["1 threads"]["median_s"] / seconds[f"{most} threads"]["median_s"]
        rows.append({"tokens": 32768, "channels": channels, "orders": orders, "seconds": seconds, "gain": gain})
    return rows


def _with_copies(given: dict[str, Tensor]) -> Tensor:
    turned = {n: x.permute(0, 3, 2, 1, 4).contiguous() if x.dim() == 5 else x for n, x in given.items()}
    return ours(turned, "cpu").permute(0, 3, 2, 1, 4).contiguous()


def memory() -> None:
    """The memory alone: minutes less, and no disturbance of the machine can change it."""
    cases = [{"tokens": length, "channels": channels} for length, channels in SHAPES]
    rows = memory_table(__file__, cases, {"tokens": 256, "channels": 16})
    save("selective_scan-memory", {"target": "peak_over_inputs_and_outputs 1.10", "rows": rows})


def main() -> None:
    if "--memory" in sys.argv[1:]:
        return memory()
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
    table["convolution"] = convolution_cost()
    table["forward_of_few_channels"] = thread_gain()
    save("selective_scan", table)


if __name__ == "__main__":
    main()
