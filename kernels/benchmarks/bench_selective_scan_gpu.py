"""The selective scan on a GPU: three traversals against mamba_ssm fed with permuted copies, and the exponential floor.

bf16, B = 1, S = 16, forward + backward. Targets: 4 times faster at 48^3 and 64^3 tokens with 96 channels, twice at 32^3 with
192; at most a quarter of the extra memory; forward within 2.5 times of one exponential per token, channel, state and
traversal. Without mamba_ssm the ratio is left out; without a GPU nothing is measured.

Run: python kernels/benchmarks/bench_selective_scan_gpu.py
     python kernels/benchmarks/bench_selective_scan_gpu.py --dry-run   (no GPU: inputs and permuted copies on a tiny grid, no times)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import NOT_MEASURED, gpu_peak_growth, interleaved, require_close, save
from torch import Tensor

from medseg_kernels import selective_scan, selective_scan_fn

SHAPES = [((48, 48, 48), 96), ((64, 64, 64), 96), ((32, 32, 32), 192)]
ORDERS = ["raster", "reversed raster", "raster:YZX"]  # SegMamba: forward, backward, between slices
STATE = 16
EXP_PER_SECOND = {
    "H100": 132 * 16 * 1.98e9,
    "H200": 132 * 16 * 1.98e9,
    "A100": 108 * 16 * 1.41e9,
}  # 16 per clock and SM


def inputs(grid: tuple[int, int, int], channels: int, device: str = "cuda") -> dict[str, Tensor]:
    """Leaves: activations in bf16, parameters in float32."""
    torch.manual_seed(0)
    wide = {name: (1, *grid, channels) for name in ("u", "delta", "z")}
    narrow = {name: (1, *grid, STATE) for name in ("B", "C")}
    given = {n: torch.randn(shape, device=device, dtype=torch.bfloat16) for n, shape in {**wide, **narrow}.items()}
    given["A"] = -torch.rand(channels, STATE, device=device) - 0.5
    given["D"] = torch.randn(channels, device=device)
    given["delta_bias"] = torch.randn(channels, device=device) - 3
    return {name: x.requires_grad_() for name, x in given.items()}


def ours(given: dict[str, Tensor], backend: str = "triton") -> Tensor:
    """All traversals in one call."""
    return selective_scan(**given, delta_softplus=True, traversals=ORDERS, backend=backend)


def with_copies(given: dict[str, Tensor], scan: Callable[..., Tensor]) -> Tensor:
    """mamba_ssm's function, or one of its signature, once per traversal on permuted and flipped copies, as SegMamba does."""
    total = torch.zeros_like(given["u"])
    for order in ORDERS:
        axes = (0, 2, 3, 1, 4) if order.endswith("YZX") else (0, 1, 2, 3, 4)
        turned = {n: given[n].permute(axes).flatten(1, 3) for n in ("u", "delta", "z", "B", "C")}
        if order.startswith("reversed"):
            turned = {n: x.flip(1) for n, x in turned.items()}
        flat = {n: x.transpose(1, 2).contiguous() for n, x in turned.items()}
        y = scan(
            flat["u"], flat["delta"], given["A"], flat["B"], flat["C"], given["D"], z=flat["z"], delta_bias=given["delta_bias"],
            delta_softplus=True,
        ).transpose(1, 2)  # fmt: skip
        y = y.flip(1) if order.startswith("reversed") else y
        shape = [given["u"].shape[axis] for axis in axes]
        back = [axes.index(axis) for axis in range(5)]
        total = total + y.reshape(shape).permute(back)
    return total


def measure(grid: tuple[int, int, int], channels: int) -> dict[str, Any]:
    """One row of the table."""
    given = inputs(grid, channels)
    grad = torch.randn_like(given["u"])
    forwards: dict[str, Callable[[], Tensor]] = {"triton": lambda: ours(given)}
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as theirs

        forwards["mamba_ssm, copies"] = lambda: with_copies(given, theirs)
    except ImportError:
        print("mamba_ssm is not installed: its column is left out")
    exact = {name: x.detach().float() for name, x in given.items()}
    expected = selective_scan(**exact, delta_softplus=True, traversals=ORDERS, backend="reference")
    errors = {name: require_close(name, call().detach(), expected, 2e-2) for name, call in forwards.items()}
    full = {
        name: (lambda call=call: torch.autograd.grad(call(), tuple(given.values()), grad))
        for name, call in forwards.items()
    }
    row: dict[str, Any] = {"grid": grid, "channels": channels, "errors": errors}
    row["forward"] = interleaved(forwards, 20)
    row["forward_backward"] = interleaved(full, 20)
    row["peak_growth_bytes"] = {name: gpu_peak_growth(call) for name, call in full.items()}
    rate = next((value for name, value in EXP_PER_SECOND.items() if name in torch.cuda.get_device_name()), None)
    if rate is not None:
        floor = len(ORDERS) * given["u"].numel() * STATE / rate
        row["forward_over_exponential_floor"] = row["forward"]["triton"]["median_s"] / floor
    if len(forwards) == 2:
        seconds, memory = row["forward_backward"], row["peak_growth_bytes"]
        row["times_faster"] = seconds["mamba_ssm, copies"]["median_s"] / seconds["triton"]["median_s"]
        row["share_of_memory"] = memory["triton"] / memory["mamba_ssm, copies"]
    return row


def dry_run() -> None:
    """Without a GPU: the inputs, our call and the permuted copies, whose result must be the same, on a tiny grid."""
    given = inputs((3, 4, 5), 8, "cpu")
    copies = with_copies(given, selective_scan_fn)
    distance = require_close("permuted copies", copies.detach(), ours(given, "reference").detach(), 2e-2)
    torch.autograd.grad(copies.sum(), tuple(given.values()))
    floors = {name: len(ORDERS) * 48**3 * 96 * STATE / rate * 1e6 for name, rate in EXP_PER_SECOND.items()}
    print(f"selective_scan: dry run: copies equal one call to {distance:.1e}")
    print("one exponential per step, 48^3 x 96:", ", ".join(f"{name} {us:.0f} us" for name, us in floors.items()))


def main() -> None:
    if "--dry-run" in sys.argv[1:]:
        return dry_run()
    if not torch.cuda.is_available():
        print(f"selective_scan: {NOT_MEASURED}: none is visible")
        return
    save(
        "selective_scan",
        {"target": "4x, 4x, 2x; memory 1/4; forward 2.5x floor", "rows": [measure(*s) for s in SHAPES]},
    )


if __name__ == "__main__":
    main()
