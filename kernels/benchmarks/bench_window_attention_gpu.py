"""Window attention on a GPU: ours against MONAI's module, MONAI with SDPA, and compiled FlexAttention.

bf16, forward + backward, shifted windows of 7^3 and 8^3 tokens at stages 1 and 2 of a 96^3 and a 128^3 patch. MONAI's module
gets ready windows and no side has projections (see `window_contenders.py`); FlexAttention partitions itself and gives the
gradient of the bias table. MONAI honours its SDPA switch without gradients only, so "monai with sdpa" is the same additive
mask given to `scaled_dot_product_attention`. Targets: 6 times faster than MONAI, 3 times than with SDPA, 1.5 times than
FlexAttention; a twelfth of MONAI's activation memory; within 2.5 times of one exponential per visible pair in the forward
and two in the backward. Without a GPU nothing is measured.

Run: python kernels/benchmarks/bench_window_attention_gpu.py            on a GPU
     python kernels/benchmarks/bench_window_attention_gpu.py --dry-run  on any machine: do all contenders agree?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import NOT_MEASURED, error, gpu_peak_growth, interleaved, require_close, save
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from window_contenders import (
    Monai,
    Plain,
    Shape,
    both_ways,
    from_windows,
    grid_results,
    leaves,
    ours,
    pair_index,
    region_mask,
    to_windows,
)

# patch of 96^3 and of 128^3 after a stem of stride 2: side of the grid, heads, at stages 1 and 2
STAGES = [(48, 3), (24, 6), (64, 3), (32, 6)]
SHAPES = [Shape(side, window, heads, 16, shifted=True) for side, heads in STAGES for window in (7, 8)]
TINY = [Shape(7, 3, 2, 16, shifted=True), Shape(6, 3, 2, 16, shifted=False)]
# exponentials per second: 16 per clock and multiprocessor
EXP_PER_SECOND = {"H100": 132 * 16 * 1.98e9, "H200": 132 * 16 * 1.98e9, "A100": 108 * 16 * 1.41e9}
BOUND = 2e-2  # 16 bits


class Flex:
    """FlexAttention with partition, region mask and a bias read from the table, as its users write it.

    Args:
        compiled: by inductor, as it is meant to run; eager for the dry run, forward only.
    """

    def __init__(self, shape: Shape, device: str, *, compiled: bool) -> None:
        self.shape, self.index = shape, pair_index(shape, device)
        mask = region_mask(shape, device)
        self.seen = None if mask is None else mask == 0
        self.attend = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def __call__(self, qkv: Tensor, table: Tensor) -> Tensor:
        """(1, X, Y, Z, H * E) from the grid."""
        s, index, seen = self.shape, self.index.view(self.shape.tokens, -1), self.seen
        q, k, v = to_windows(s, qkv).unflatten(2, (3, s.heads, s.channels)).permute(2, 0, 3, 1, 4)

        def change(score: Tensor, w: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            score = score + table[index[i, j], h]
            return score if seen is None else torch.where(seen[w, i, j], score, -float("inf"))

        return from_windows(s, self.attend(q, k, v, score_mod=change).transpose(1, 2).flatten(2))


def contenders(shape: Shape, device: str, dtype: torch.dtype, dry: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Forward + backward of every contender, and the leaves."""
    given = leaves(shape, device, dtype)
    grad = torch.randn(1, *shape.grid, shape.heads * shape.channels, generator=torch.Generator().manual_seed(1))
    grad = grad.to(device, dtype)
    windows, grad_windows = to_windows(shape, given["qkv"]).detach().requires_grad_(), to_windows(shape, grad)
    on_grid, ready = list(given.values()), [windows, given["table"]]
    monai, sdpa = Monai(shape, device), Plain(shape, device, sdpa=True)
    flex = Flex(shape, device, compiled=not dry)
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "ours": both_ways(lambda: ours(shape, given, "reference" if dry else "triton"), on_grid, grad),
        "monai": both_ways(lambda: monai(windows, given["table"].to(dtype)), ready, grad_windows),
        "monai with sdpa": both_ways(lambda: sdpa(windows, given["table"]), ready, grad_windows),
        "flex": both_ways(lambda: flex(given["qkv"], given["table"]), on_grid, grad),
    }
    if dry:  # FlexAttention has no backward on a CPU

        @torch.no_grad()
        def forward_only() -> list[Tensor]:
            return [flex(given["qkv"].detach(), given["table"].detach())]

        calls["flex"] = forward_only
    return calls, given


def check(shape: Shape, calls: dict[str, Any], given: dict[str, Tensor], bound: float) -> dict[str, Any]:
    """Errors of outputs and gradients of all contenders against float32 (float64 in the dry run).

    Raises:
        WrongResultError: ours is out of bounds.
    """
    wide = torch.float64 if bound < 1e-3 else torch.float32
    exact = {name: x.detach().to(wide).requires_grad_() for name, x in given.items()}
    grad = torch.randn(1, *shape.grid, shape.heads * shape.channels, generator=torch.Generator().manual_seed(1))
    grad = grad.to(given["qkv"].device, given["qkv"].dtype).to(wide)
    expected = both_ways(lambda: ours(shape, exact, "reference"), list(exact.values()), grad)()
    errors: dict[str, Any] = {}
    for name, call in calls.items():
        found = call() if name in ("ours", "flex") else grid_results(shape, call(), given["qkv"])
        # a rival that keeps scores in 16 bits may lie further off, which its row shows; ours may not
        strict = name == "ours" or bound < 1e-3
        errors[name] = {
            key: require_close(f"{name}, {key}, {shape}", a, b, bound) if strict else error(a, b)
            for key, a, b in zip(("output", "dqkv", "dtable"), found, expected, strict=False)
        }
    return errors


def measure(shape: Shape) -> dict[str, Any]:
    """One row of the table."""
    calls, given = contenders(shape, "cuda", torch.bfloat16, dry=False)
    row: dict[str, Any] = {"shape": str(shape), "errors": check(shape, calls, given, BOUND)}
    seconds = row["forward_backward"] = interleaved(calls, 20)
    memory = row["peak_growth_bytes"] = {name: gpu_peak_growth(call) for name, call in calls.items()}
    mine = seconds["ours"]["median_s"]
    row["times_faster_than"] = {name: value["median_s"] / mine for name, value in seconds.items() if name != "ours"}
    row["share_of_monai_memory"] = memory["ours"] / memory["monai"]
    rate = next((value for name, value in EXP_PER_SECOND.items() if name in torch.cuda.get_device_name()), None)
    if rate is not None:
        pairs = shape.windows * shape.heads * shape.tokens**2
        row["over_exponential_floor"] = mine / (3 * pairs / rate)
        with torch.no_grad():
            forward = interleaved({"ours": lambda: ours(shape, given, "triton")}, 20)["ours"]["median_s"]
        row["forward_over_exponential_floor"] = forward / (pairs / rate)
    return row


def main() -> None:
    """Measure every shape; the file is written after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--dry-run", action="store_true", help="build the inputs and compare all contenders, tiny, on the CPU"
    )
    if parser.parse_args().dry_run:
        for shape in TINY:
            calls, given = contenders(shape, "cpu", torch.float32, dry=True)
            errors = check(shape, calls, given, 1e-4)
            print(f"{shape}: all agree, largest error {max(max(row.values()) for row in errors.values()):.1e}")
        return
    if not torch.cuda.is_available():
        print(f"window_attention: {NOT_MEASURED}: none is visible")
        return
    table: dict[str, Any] = {
        "target": "6x monai, 3x monai with sdpa, 1.5x flex; memory 1/12; 2.5x exponential floor",
        "rows": [],
    }
    for shape in SHAPES:
        table["rows"].append(measure(shape))
        save("window_attention", table)


if __name__ == "__main__":
    main()
