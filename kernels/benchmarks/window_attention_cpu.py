"""Window attention on the CPU: ours, the manual form and SDPA with an additive mask, forward and backward, interleaved.

The rivals get tokens that are already partitioned, and bias plus region mask already added up: an easier task than ours.
`python kernels/benchmarks/window_attention_cpu.py OUTPUT.json`
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import sys
import time

import torch
from torch import nn

from medseg_kernels import window_attention

ROUNDS = 3
SHAPES = [(3, 3, 7, 16), (3, 6, 8, 32)]  # windows per axis, heads, window side, channels per head


def main() -> None:
    """Time every shape and write the medians, in ms."""
    rows = []
    for count, heads, side, channels in SHAPES:
        qkv = torch.randn(1, *[count * side] * 3, 3, heads, channels, requires_grad=True)
        table = torch.randn((2 * side - 1) ** 3, heads, requires_grad=True)
        windows = torch.randn(3, count**3, heads, side**3, channels, requires_grad=True)
        bias = torch.randn(count**3, heads, side**3, side**3, requires_grad=True)
        calls = {
            "ours": lambda a=qkv, t=table, s=side: window_attention(a, s, s // 2, t, backend="cpu"),
            "manual": lambda w=windows, b=bias: (w[0] * w.shape[-1] ** -0.5 @ w[1].mT + b).softmax(-1) @ w[2],
            "sdpa": lambda w=windows, b=bias: nn.functional.scaled_dot_product_attention(w[0], w[1], w[2], b),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(ROUNDS + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call().sum().backward()
                if turn:
                    times[name].append(1e3 * (time.perf_counter() - start))
        shape = {"windows": count**3, "heads": heads, "tokens": side**3, "channels": channels}
        rows.append({**shape, **{f"{name}_ms": round(statistics.median(t), 1) for name, t in times.items()}})
    result = {"device": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
              "date": datetime.date.today().isoformat(), "pass": "forward and backward", "rows": rows}  # fmt: skip
    with open(sys.argv[1], "w") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
