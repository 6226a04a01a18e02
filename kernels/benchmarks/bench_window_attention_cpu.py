"""Window attention on a CPU: ours against MONAI's module, the form by hand and SDPA with an additive mask.

Float32, one volume, windows of 7^3 and 8^3 tokens, plain and shifted, at the stages of a 96^3 patch (48^3 tokens with 3 heads,
24^3 with 6). What is compared is told in `window_contenders.py`: "ready windows" leaves out what the rivals need around the
attention, and the projections on all sides; "block" has both on both sides. Where the grid is padded (windows of 7^3) ours
does not compute the padded queries, the rivals do. Targets: forward + backward 3.5 times faster than
MONAI's module and than SDPA; inference not slower than SDPA in chunks of windows; at most a quarter of the memory.

Run: python kernels/benchmarks/bench_window_attention_cpu.py [--dry-run]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import Work, interleaved, peak_memory, require_close, save
from torch import Tensor
from torch.nn import functional
from window_contenders import (
    Blocks,
    Monai,
    Plain,
    Shape,
    both_ways,
    from_windows,
    grid_results,
    leaves,
    ours,
    to_windows,
)

# side of the grid, of the window, heads, channels per head
SHAPES = [(48, 7, 3, 16), (48, 8, 3, 16), (24, 7, 6, 16), (24, 8, 6, 16), (24, 7, 6, 32), (24, 8, 6, 32)]
TINY = [(7, 3, 2, 8)]  # the grid is padded
CHUNK = 8  # windows that SDPA gets at a time; 1 to 32 lie within 2 %
RIVALS = {"monai": Monai, "manual": lambda s: Plain(s, sdpa=False), "sdpa": lambda s: Plain(s, sdpa=True)}


def ready_windows(shape: Shape) -> dict[str, Any]:
    """Forward + backward of all contenders, checked against float64, and the memory of ours and MONAI's."""
    given = leaves(shape)
    grad = torch.randn(1, *shape.grid, shape.heads * shape.channels, generator=torch.Generator().manual_seed(1))
    windows = to_windows(shape, given["qkv"]).detach().requires_grad_()
    grad_windows = to_windows(shape, grad)
    wide = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    expected = both_ways(lambda: ours(shape, wide, "reference"), list(wide.values()), grad.double())()
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "cpu": both_ways(lambda: ours(shape, given, "cpu"), list(given.values()), grad)
    }
    for name, make in RIVALS.items():
        rival = make(shape)
        calls[name] = both_ways(lambda r=rival: r(windows, given["table"]), [windows, given["table"]], grad_windows)
    errors = {}
    for name, call in calls.items():
        found = call() if name == "cpu" else grid_results(shape, call(), given["qkv"])
        bounds = {"output": 1e-5, "dqkv": 1e-5, "dtable": 1e-5 if name == "cpu" else 1e-4}
        errors[name] = {
            key: require_close(f"{name}, {key}, {shape}", a, b, bounds[key])
            for key, a, b in zip(bounds, found, expected, strict=True)
        }
    del expected
    seconds = interleaved(calls, 3, {"cpu": 3})
    return {"errors": errors, "forward_backward": seconds, **_ratios(seconds, "cpu")}


def block(shape: Shape) -> dict[str, Any]:
    """The same for MONAI's whole first half of a block."""
    blocks = Blocks(shape)
    grad = torch.randn(blocks.x.shape, generator=torch.Generator().manual_seed(1))
    calls = {"cpu": both_ways(blocks.ours, blocks.leaves, grad), "monai": both_ways(blocks.monai, blocks.leaves, grad)}
    errors = [
        require_close(f"block, {shape}", a, b, 1e-4) for a, b in zip(calls["cpu"](), calls["monai"](), strict=True)
    ]
    seconds = interleaved(calls, 3, {"cpu": 2})
    return {"largest_error": max(errors), "forward_backward": seconds, **_ratios(seconds, "cpu")}


@torch.no_grad()
def inference(shape: Shape) -> dict[str, Any]:
    """Forward only: ours from the grid; SDPA in chunks on dense q, k, v of ready windows, bias and mask added up before."""
    given = {name: x.detach() for name, x in leaves(shape).items()}
    windows, monai = to_windows(shape, given["qkv"]), Monai(shape, sdpa=True)
    additive = Plain(shape, sdpa=True).additive(given["table"])
    q, k, v = (x.contiguous() for x in windows.unflatten(2, (3, shape.heads, -1)).permute(2, 0, 3, 1, 4))

    def sdpa() -> Tensor:
        parts = []
        for start in range(0, shape.windows, CHUNK):
            part = slice(start, start + CHUNK)
            mask = additive if len(additive) == 1 else additive[part]
            parts.append(functional.scaled_dot_product_attention(q[part], k[part], v[part], mask))
        return torch.cat(parts)

    calls: dict[str, Callable[[], Tensor]] = {
        "cpu": lambda: ours(shape, given, "cpu"),
        "sdpa in chunks": sdpa,
        "monai with sdpa": lambda: monai(windows, given["table"]),
    }
    expected = ours(shape, {name: x.double() for name, x in given.items()}, "reference")
    errors = {}
    for name, call in calls.items():
        found = call()
        if name == "sdpa in chunks":
            found = found.transpose(1, 2).flatten(2)
        found = found if name == "cpu" else from_windows(shape, found)
        errors[name] = require_close(f"inference {name}, {shape}", found, expected, 1e-5)
    seconds = interleaved(calls, 5, {"cpu": 2})
    return {"errors": errors, "forward": seconds, **_ratios(seconds, "cpu")}


def _ratios(seconds: dict[str, Any], name: str) -> dict[str, Any]:
    mine = seconds[name]["median_s"]
    return {"times_faster_than": {n: round(t["median_s"] / mine, 2) for n, t in seconds.items() if n != name}}


def memory_ours(*numbers: int) -> Work:
    """Forward and backward of ours, for the measurement of memory."""
    shape = Shape(*numbers[:4], bool(numbers[4]))
    given = leaves(shape)
    grad = torch.randn(1, *shape.grid, shape.heads * shape.channels)
    return Work(both_ways(lambda: ours(shape, given, "cpu"), list(given.values()), grad), [*given.values(), grad])


def memory_monai(*numbers: int) -> Work:
    """The same of MONAI's module on ready windows."""
    shape = Shape(*numbers[:4], bool(numbers[4]))
    given, module = leaves(shape), Monai(shape)
    windows = to_windows(shape, given.pop("qkv")).detach().requires_grad_()
    grad = torch.randn(shape.windows, shape.tokens, shape.heads * shape.channels)
    return Work(both_ways(lambda: module(windows, given["table"]), [windows, given["table"]], grad), [windows, grad])


def memory(numbers: tuple[int, ...]) -> dict[str, Any]:
    """Growth of a fresh process during forward + backward, shifted."""
    found = {
        name: peak_memory(__file__, f"memory_{name}", [*TINY[0], 1], [*numbers, 1])["growth_bytes"]
        for name in ("ours", "monai")
    }
    return {"growth_bytes": found, "share_of_monai": round(found["ours"] / found["monai"], 4)}


def main() -> None:
    """Measure every shape; the file is written after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true", help="only check that all contenders agree at a tiny size")
    dry = parser.parse_args().dry_run
    table: dict[str, Any] = {
        "target": "forward + backward 3.5x of monai and sdpa; inference 1.0x of sdpa in chunks; memory 1/4 of monai",
        "rows": [],
    }
    for numbers in TINY if dry else SHAPES:
        for shifted in (False, True):
            shape = Shape(*numbers, shifted)
            row: dict[str, Any] = {"shape": str(shape), "windows": shape.windows, "ready_windows": ready_windows(shape)}
            row["block"], row["inference"] = block(shape), inference(shape)
            if shifted:
                row["memory"] = memory(numbers)
            table["rows"].append(row)
            parts = [f"{k} {row[k]['times_faster_than']}" for k in ("ready_windows", "block", "inference")]
            print(f"{shape}: {'; '.join(parts)}; memory {row.get('memory', {}).get('share_of_monai', '-')}", flush=True)
            if not dry:
                save("window_attention", table)


if __name__ == "__main__":
    main()
