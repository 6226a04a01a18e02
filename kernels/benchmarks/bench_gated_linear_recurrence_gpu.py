"""The gated linear recurrence on a GPU against flash-linear-attention: three traversals fed with permuted copies, and its 1D home.

bf16, B = 1, H = 6, K = V = 64, 48^3 tokens, forward + backward. Targets: 1.5 times faster over three traversals, 0.9 times on
one sequence, for every member that flash-linear-attention has. Without it only our times are written; without a GPU nothing is.

Run: python kernels/benchmarks/bench_gated_linear_recurrence_gpu.py
     python kernels/benchmarks/bench_gated_linear_recurrence_gpu.py --dry-run   (no GPU: inputs and permuted copies on a tiny grid)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import NOT_MEASURED, error, gpu_peak_growth, interleaved, require_close, save
from torch import Tensor

from medseg_kernels import gated_linear_recurrence

GRID, HEADS, CHANNELS = (48, 48, 48), 6, 64
AXES = {"raster": (0, 1, 2), "raster:YZX": (1, 2, 0), "raster:ZXY": (2, 0, 1)}
MEMBERS = ("retention", "simple gla", "gla", "delta rule", "gated delta rule")


def inputs(member: str, grid: tuple[int, int, int] = GRID, device: str = "cuda") -> dict[str, Tensor]:
    """Leaves over the grid: tokens in bf16, decays and betas in float32."""
    torch.manual_seed(0)
    shape = (1, *grid, HEADS)
    given = {name: torch.randn(*shape, CHANNELS, device=device) for name in "qkv"}
    given["k"] = torch.nn.functional.normalize(given["k"], dim=-1)
    given = {name: x.bfloat16() for name, x in given.items()}
    if member == "retention":  # the constants flash-linear-attention has built in
        given["g"] = (1 - 2.0 ** (-5 - torch.arange(HEADS, device=device))).log()
    if member in ("simple gla", "gated delta rule"):
        given["g"] = -0.1 * torch.rand(*shape, device=device)
    if member == "gla":
        given["g"] = -0.1 * torch.rand(*shape, CHANNELS, device=device)
    if "delta" in member:
        given["beta"] = torch.rand(*shape, device=device)
    return {name: x.requires_grad_(member != "retention" or name != "g") for name, x in given.items()}


def theirs(member: str) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """flash-linear-attention's function on (B, N, H, E); None where it is not installed."""
    try:
        from fla.ops.delta_rule import chunk_delta_rule
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        from fla.ops.gla import chunk_gla
        from fla.ops.retention import chunk_retention
        from fla.ops.simple_gla import chunk_simple_gla
    except ImportError:
        return None
    table: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        "retention": lambda x: chunk_retention(x["q"], x["k"], x["v"])[0],
        "simple gla": lambda x: chunk_simple_gla(x["q"], x["k"], x["v"], x["g"])[0],
        "gla": lambda x: chunk_gla(x["q"], x["k"], x["v"], x["g"])[0],
        "delta rule": lambda x: chunk_delta_rule(x["q"], x["k"], x["v"], x["beta"].bfloat16())[0],
        "gated delta rule": lambda x: chunk_gated_delta_rule(x["q"], x["k"], x["v"], x["g"], x["beta"].bfloat16())[0],
    }
    return table[member]


def permuted(given: dict[str, Tensor], axes: tuple[int, ...], call: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
    """A sequence function on copies of a volume in another order, and its output turned back."""
    flat, grid = {}, given["q"].shape[1:4]
    for name, x in given.items():
        turned = x if x.dim() == 1 else x.permute(0, *(1 + a for a in axes), *range(4, x.dim()))
        flat[name] = turned if x.dim() == 1 else turned.flatten(1, 3).contiguous()
    output = call(flat).unflatten(1, [grid[a] for a in axes])
    back = [0, *(1 + axes.index(a) for a in range(3)), 4, 5]
    return output.permute(back).contiguous()


def measure(member: str, orders: list[str]) -> dict[str, Any]:
    """One row: all orders summed."""
    given = inputs(member)
    leaves = tuple(x for x in given.values() if x.requires_grad)
    grad = torch.randn_like(given["v"])
    forwards: dict[str, Callable[[], Tensor]] = {
        "triton": lambda: gated_linear_recurrence(**given, traversals=orders, backend="triton")[0]
    }
    their_call = theirs(member)
    if their_call is not None:
        forwards["fla"] = lambda: torch.stack([permuted(given, AXES[o], their_call) for o in orders]).sum(0)
    exact = {name: x.detach().float() for name, x in given.items()}
    expected = gated_linear_recurrence(**exact, traversals=orders, backend="reference")[0]
    row: dict[str, Any] = {"member": member, "orders": orders}
    row["errors"] = {name: error(call().detach(), expected) for name, call in forwards.items()}
    if row["errors"]["triton"] > 2e-2:
        raise SystemExit(f"{member}: triton is off by {row['errors']['triton']:.1e}: not timed")
    full = {name: (lambda call=call: torch.autograd.grad(call(), leaves, grad)) for name, call in forwards.items()}
    row["forward"], row["forward_backward"] = interleaved(forwards, 20), interleaved(full, 20)
    row["peak_growth_bytes"] = {name: gpu_peak_growth(call) for name, call in full.items()}
    if "fla" in full:
        row["times_faster"] = row["forward_backward"]["fla"]["median_s"] / row["forward_backward"]["triton"]["median_s"]
    print(member, orders, {n: f"{t['median_s'] * 1e3:.2f} ms" for n, t in row["forward_backward"].items()}, flush=True)
    return row


def dry_run() -> None:
    """Without a GPU: inputs of every member, and the permuted copies, whose sum must be that of one call over all orders."""
    for member in MEMBERS:
        given = inputs(member, (3, 4, 5), "cpu")
        leaves = tuple(x for x in given.values() if x.requires_grad)
        sequence = lambda x: gated_linear_recurrence(**x, backend="reference")[0]  # noqa: E731
        copies = torch.stack([permuted(given, AXES[o], sequence) for o in AXES]).sum(0)
        expected = gated_linear_recurrence(**given, traversals=list(AXES), backend="reference")[0]
        distance = require_close(f"{member}, permuted copies", copies.detach(), expected.detach(), 2e-2)
        torch.autograd.grad(copies.sum(), leaves)
        print(f"gated_linear_recurrence: dry run: {member}: copies equal one call to {distance:.1e}")


def main() -> None:
    if "--dry-run" in sys.argv[1:]:
        return dry_run()
    if not torch.cuda.is_available():
        print(f"gated_linear_recurrence: {NOT_MEASURED}: none is visible")
        return
    rows = [measure(member, orders) for member in MEMBERS for orders in (list(AXES), ["raster"])]
    save("gated_linear_recurrence", {"target": "1.5x over three orders, 0.9x over one", "rows": rows})


if __name__ == "__main__":
    main()
