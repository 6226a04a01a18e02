"""Runs cases of the triton backend under the interpreter; prints the errors as JSON. Started by test_triton.py."""

from __future__ import annotations

import json

import torch

from tests.kernels.window_attention.cases import Case, errors

G, W, S = (5, 4, 3), (3, 2, 3), (1, 1, 1)
SHORT = [
    Case(G, W, S, 1, 16),
    Case(G, W, S, 1, 5, options={"pad_mode": "input"}),
    Case(G, W, S, 1, 8, "dense", sample=True, options={"pad_mode": "input"}),
    Case(G, W, S, 1, 8, "dense", carriers=2),
    Case(G, (3, 2, 5), S, 1, 24, carriers=1, options={"bias_index": "monai"}),
    Case(G, W, S, 1, 8, source="global", sample=True),
    Case(G, W, S, 1, 8, source="apart"),
    Case(G, W, (0, 0, 0), 1, 8, options={"geometry": "grid"}),
    Case(G, W, S, 1, 8, options={"causal": True, "radius": [1, -1, 1]}),
    Case(G, W, S, 1, 8, options={"dropout": 0.3}),
]
TILES = Case((3, 5, 5), (3, 5, 5), (0, 0, 0), 1, 8)  # 75 tokens: two tiles in both directions

if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for case in [*SHORT, TILES]:
        found[f"{case} float32"] = errors(case, torch.float32, "triton", batch=1)
    for case in (SHORT[0], SHORT[3]):
        found[f"{case} float16"] = errors(case, torch.float16, "triton", batch=1)
    print(json.dumps(found))
