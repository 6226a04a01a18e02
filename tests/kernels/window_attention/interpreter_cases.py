"""Runs cases of the triton backend under the interpreter; prints the errors as JSON. Started by test_triton.py."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from medseg_kernels import window_attention
from medseg_kernels.window_attention import triton_launch
from tests.kernels.played import played
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
TILES = [
    Case((3, 5, 5), (3, 5, 5), (0, 0, 0), 1, 8),  # 75 tokens: two tiles in both directions
    Case((3, 3, 4), (3, 3, 4), (0, 0, 0), 1, 100),  # wide heads have smaller tiles
    Case((2, 2, 1), (1, 1, 1), (0, 0, 0), 1, 8),  # sizes of one become constants
]


def far_strides() -> dict[str, float]:
    """Samples that lie 2^31 elements apart give what dense ones give, in the output and both gradients."""
    torch.manual_seed(0)
    small, table = torch.randn(2, 3, 2, 2, 3, 1, 4).half(), torch.randn(27, 1)
    memory = torch.empty(2**31 + 1024, dtype=torch.float16)  # untouched pages take no memory
    far = memory.as_strided(small.shape, (2**31, 48, 24, 12, 4, 4, 1))
    far.copy_(small)
    results = []
    for qkv in (small, far):
        leaves = [qkv.detach().requires_grad_(), table.clone().requires_grad_()]
        out = window_attention(leaves[0], 2, 1, leaves[1], backend="triton")
        results.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    return {str(n): float((a - b).abs().max()) for n, (a, b) in enumerate(zip(*results, strict=True))}


def attended(qkv: Tensor, table: Tensor, padding: Tensor) -> Tensor:
    """Shifted windows with a table and padding."""
    return window_attention(qkv, 2, 1, table, pad_qkv=padding, pad_mode="input", backend="triton")


def poison_new_tensors() -> None:
    """From here on new memory holds NaN, so that an element that nobody writes is seen."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    torch.empty = lambda *a, **k: poison(empty(*a, **k))  # type: ignore[assignment]
    torch.empty_like = lambda *a, **k: poison(empty_like(*a, **k))  # type: ignore[assignment]
    torch.Tensor.new_empty = lambda *a, **k: poison(new_empty(*a, **k))  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"far strides float32": far_strides()}
    right = played(attended, (1, 3, 2, 2, 3, 1, 4), (27, 1), (3, 1, 4))
    found["played float32"] = {"0 if right": float(not right)}
    poison_new_tensors()
    for case in [*SHORT, *TILES]:
        found[f"{case} float32"] = errors(case, torch.float32, "triton", batch=1)
    triton_launch.MANY = 1  # every window and head by the fused kernel
    for case in [*SHORT[1:], TILES[0]]:
        found[f"{case} fused float32"] = errors(case, torch.float32, "triton", batch=1)
    for case in (SHORT[0], SHORT[2], SHORT[3], SHORT[5], SHORT[9]):
        found[f"{case} float16"] = errors(case, torch.float16, "triton", batch=1)
    print(json.dumps(found))
