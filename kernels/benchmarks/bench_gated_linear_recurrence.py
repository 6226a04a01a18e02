"""The gated linear recurrence on a CPU against its recurrent form in torch and flash-linear-attention's naive chunk functions.

B = 1, H = 4, K = V = 64, float32, forward + backward, N = 4096 and 32768. Targets: at least 10 times faster than the recurrent
form, not slower than the naive chunk functions, memory linear in N.

At 32768 the recurrent form would keep about 10 GB for its backward: it is run in 8 parts of 4096 whose states are detached,
which is less work. The slow contenders run once there, the others in turn; medians.

Run: python kernels/benchmarks/bench_gated_linear_recurrence.py  (needs fla-core and einops for the
comparison; --memory measures the memory alone)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Work, interleaved, memory_table, peak_memory, require_close, save
from torch import Tensor

from medseg_kernels import gated_linear_recurrence
from medseg_kernels.gated_linear_recurrence.reference import recurrent

HEADS, CHANNELS, PART = 4, 64, 4096
MEMBERS = ("decay per channel", "linear attention", "gated delta rule", "scalar decay")


def inputs(member: str, length: int) -> dict[str, Tensor]:
    """Leaves of one member."""
    torch.manual_seed(0)
    given = {name: torch.randn(1, length, HEADS, CHANNELS) for name in "qkv"}
    given["k"] = torch.nn.functional.normalize(given["k"], dim=-1)
    if member != "linear attention":
        given["g"] = -0.1 * torch.rand(1, length, HEADS)
    if member == "decay per channel":
        given["g"] = -0.1 * torch.rand(1, length, HEADS, CHANNELS)
    if member == "gated delta rule":
        given["beta"] = torch.rand(1, length, HEADS)
    return {name: x.requires_grad_() for name, x in given.items()}


def naive_chunks(member: str) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """flash-linear-attention's function for a member; None where it has none."""
    try:
        from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule
        from fla.ops.linear_attn.naive import naive_chunk_linear_attn
        from fla.ops.simple_gla.naive import naive_chunk_simple_gla
    except ImportError:
        return None

    def first(result: Any, length: int) -> Tensor:
        output = result[0] if isinstance(result, tuple) else result
        return output if output.shape[1] == length else output.transpose(1, 2)

    if member == "linear attention":
        # written for (B, H, N, E)
        return lambda x: first(naive_chunk_linear_attn(x["q"], x["k"], x["v"]), x["q"].shape[1])
    if member == "scalar decay":
        return lambda x: first(naive_chunk_simple_gla(x["q"], x["k"], x["v"], x["g"]), x["q"].shape[1])
    if member == "gated delta rule":
        return lambda x: first(naive_chunk_gated_delta_rule(x["q"], x["k"], x["v"], x["g"], x["beta"]), x["q"].shape[1])
    return None


def recurrent_in_parts(given: dict[str, Tensor], grad: Tensor) -> None:
    """Forward and backward of the recurrent form, part by part."""
    state = None
    for first in range(0, grad.shape[1], PART):
        part = {name: x[:, first : first + PART] for name, x in given.items()}
        output, last = recurrent(**part, initial_state=state)
        torch.autograd.grad(output, tuple(given.values()), grad[:, first : first + PART])
        state = last.detach()


def once(call: Callable[[], Any]) -> dict[str, Any]:
    """One run, for what takes minutes."""
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return {"median_s": seconds, "fastest_s": seconds, "runs": 1}


def both_ways(forward: Callable[[], Tensor], given: dict[str, Tensor], grad: Tensor) -> Callable[[], Any]:
    """Forward and backward, with nothing accumulated."""
    return lambda: torch.autograd.grad(forward(), tuple(given.values()), grad)


def memory_work(member: str, length: int) -> Work:
    """Forward and backward for the measurement of memory; the outputs are those of the op and all gradients."""
    given = inputs(member, length)
    grad = torch.randn(1, length, HEADS, CHANNELS)

    def call() -> list[Tensor]:
        output = gated_linear_recurrence(**given, backend="cpu")[0]
        return [output, *torch.autograd.grad(output, tuple(given.values()), grad)]

    return Work(call, [*given.values(), grad])


def measure(member: str, length: int) -> dict[str, Any]:
    """One row of the table."""
    given = inputs(member, length)
    grad = torch.randn(1, length, HEADS, CHANNELS)
    forwards: dict[str, Callable[[], Tensor]] = {
        name: (lambda name=name: gated_linear_recurrence(**given, backend=name)[0]) for name in ("cpu", "reference")
    }
    exact = {name: x.detach().double() for name, x in given.items()}
    expected = gated_linear_recurrence(**exact, backend="reference")[0]
    naive = naive_chunks(member)
    if naive is not None:
        forwards["fla naive chunks"] = lambda: naive(given)
    errors = {name: require_close(name, call().detach(), expected, 1e-4) for name, call in forwards.items()}
    calls = {name: both_ways(call, given, grad) for name, call in forwards.items()}
    calls["recurrent"] = lambda: recurrent_in_parts(given, grad)
    slow = {} if length <= PART else {n: calls.pop(n) for n in ("recurrent", "fla naive chunks") if n in calls}
    seconds = interleaved(calls, 2, {"cpu": 4}) | {name: once(call) for name, call in slow.items()}
    ours = seconds["cpu"]["median_s"]
    row = {"member": member, "tokens": length, "forward_backward": seconds, "errors": errors}
    row["times_faster"] = {name: value["median_s"] / ours for name, value in seconds.items() if name != "cpu"}
    row["memory"] = peak_memory(__file__, "memory_work", [member, 64], [member, length])
    print(member, length, f"{ours * 1e3:.0f} ms", {n: round(x, 1) for n, x in row["times_faster"].items()}, flush=True)
    return row


def memory() -> None:
    """The memory alone, and how it grows: linear in N means 8 times the growth for 8 times the tokens."""
    cases = [{"member": member, "tokens": length} for member in MEMBERS for length in (PART, 8 * PART)]
    rows = memory_table(__file__, cases, {"tokens": 64})
    ratios = {
        f"{short['member']}, {short['threads']} threads": long["growth_bytes"] / short["growth_bytes"]
        for short, long in zip(rows[::2], rows[1::2], strict=True)
    }
    save("gated_linear_recurrence-memory", {"target": "O(N)", "growth_32768_over_4096": ratios, "rows": rows})


def main() -> None:
    if "--memory" in sys.argv[1:]:
        return memory()
    rows = []
    for length in (PART, 8 * PART):
        for member in MEMBERS:
            rows.append(measure(member, length))
            # after every row: the last ones take minutes each
            save("gated_linear_recurrence", {"target": "10x recurrent, 1x fla naive chunks, memory O(N)", "rows": rows})


if __name__ == "__main__":
    main()
