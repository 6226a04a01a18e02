"""Cases of window attention, and the comparison of a backend with the float64 reference in outputs and all gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medseg_kernels import window_attention, window_attention_with_carriers, window_grid


@dataclass(frozen=True)
class Case:
    """One call: grid, windows, heads, and what is given besides."""

    grid: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]
    heads: int = 2
    channels: int = 16
    bias: str = "table"
    carriers: int = 0
    sample: bool = False
    source: str = "packed"  # or "apart" (q and kv), "global" (one query for all windows)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        extra = [f"M{self.carriers}"] * (self.carriers > 0) + ["sample"] * self.sample + [self.source, self.bias]
        sizes = f"{self.grid}-{self.window}-{self.shift}-h{self.heads}e{self.channels}".replace(" ", "")
        return "-".join([sizes, *extra, *(f"{k}={v}" for k, v in self.options.items())])


CASES = [
    Case((8, 8, 8), (4, 4, 4), (2, 2, 2)),
    Case((9, 8, 5), (4, 4, 4), (2, 1, 3), 3),
    Case((9, 8, 5), (4, 4, 4), (2, 2, 2), 3, options={"pad_mode": "input"}),
    Case((9, 8, 5), (4, 4, 4), (2, 2, 2), 3, 24, "dense", sample=True, options={"pad_mode": "input"}),
    Case((9, 8, 5), (4, 4, 7), (2, 2, 2), 2, 8, "dense", carriers=3),
    Case((9, 8, 5), (4, 4, 7), (2, 2, 2), 2, 40, carriers=2, options={"bias_index": "monai"}),
    Case((9, 8, 5), (4, 4, 7), (2, 2, 2), source="global", sample=True),
    Case((9, 8, 5), (4, 4, 4), (2, 2, 2), source="apart", sample=True),
    Case((9, 8, 5), (4, 4, 4), (0, 0, 0), options={"geometry": "grid"}),
    Case((9, 8, 6), (2, 2, 2), (1, 1, 1), 3, bias="none", options={"geometry": "stripe"}),
    Case((6, 6, 6), (1, 1, 1), (0, 0, 0), 3, options={"geometry": "stripe"}),
    Case((5, 4, 5), (9, 8, 5), (0, 0, 0), 2, 32, options={"causal": True, "radius": [1, 2, 1]}),
    Case((9, 8, 5), (4, 8, 5), (2, 0, 0), options={"dropout": 0.3}),
    Case((9, 7), (4, 4), (1, 2), 2, 5, "none", carriers=2, options={"dropout": 0.3}),
    Case((1, 7, 1), (2, 3, 2), (1, 1, 1), 1, 1),
    Case((11,), (4,), (1,), 1, 13),
    Case((3, 3, 3), (1, 1, 1), (0, 0, 0)),
    Case((7, 7, 7), (7, 7, 7), (3, 3, 3), 1, 16),
    Case((5, 3, 4), (3, 3, 4), (1, 2, 1), 1, 128),
]


def tensors(case: Case, dtype: torch.dtype, batch: int = 2) -> dict[str, Tensor]:
    """Inputs in float64 whose values `dtype` can hold."""
    generator = torch.Generator().manual_seed(0)
    window, counts = window_grid(list(case.grid), list(case.window))
    tokens, heads, channels = math.prod(window), case.heads, case.channels

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).double()

    found: dict[str, Tensor] = {}
    if case.source == "packed":
        found["qkv"] = make(batch, *case.grid, 3, heads, channels)
    elif case.source == "apart":
        found["qkv"] = make(batch, *case.grid, heads, channels)
        found["kv"] = make(batch, *case.grid, 2, heads, channels)
    else:
        found["qkv"] = make(batch, *case.grid, 2, heads, channels)
        found["global_query"] = make(batch, *window, heads, channels)
    if case.bias == "table":
        window_of_table = list(case.window)
        if case.options.get("geometry") == "stripe":
            window_of_table[0] = case.grid[0]  # cubic grids only: every group's table is as long
        rows = math.prod(2 * size - 1 for size in window_of_table)
        found["bias_table"] = make(rows, heads)
    elif case.bias == "dense":
        found["bias"] = make(heads, tokens + case.carriers, tokens + case.carriers)
    if case.carriers:
        found["carriers"] = make(batch, math.prod(counts), case.carriers, 3, heads, channels)
    if case.sample:
        found["sample_qkv"] = make(batch, 3, heads, channels)
    if case.options.get("pad_mode") == "input":
        found["pad_qkv"] = make(3, heads, channels)
    return found


def run(
    case: Case, inputs: dict[str, Tensor], dtype: torch.dtype, backend: str | None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Outputs and gradients of one backend; biases stay float32 beside 16-bit tokens."""
    kind = {name: torch.float32 if "bias" in name and dtype.itemsize == 2 else dtype for name in inputs}
    given = {name: tensor.to(device, kind[name]).requires_grad_() for name, tensor in inputs.items()}
    call = window_attention_with_carriers if case.carriers else window_attention
    seed = torch.tensor([7], device=device)
    settings = {"window_size": list(case.window), "shift_size": list(case.shift), "seed": seed}
    out = call(**given, **settings, backend=backend, **case.options)
    outputs = list(out) if isinstance(out, tuple) else [out]
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(device, dtype) for o in outputs]
    found = torch.autograd.grad(outputs, list(given.values()), gradients)
    result = {f"output {n}": o.detach() for n, o in enumerate(outputs)}
    return {**result, **{f"gradient of {name}": value for name, value in zip(given, found, strict=True)}}


def scale(truth: Tensor) -> Tensor:
    """What an error is divided by: the largest value, or 1 where the truth is zero (the bias of a window of one token),
    since there the terms that cancel are of order 1."""
    largest = truth.abs().max()
    return torch.where(largest > 1e-9, largest, torch.ones_like(largest))


def errors(case: Case, dtype: torch.dtype, backend: str, batch: int = 2) -> dict[str, float]:
    """Largest error over largest value of every output and gradient, against the float64 reference."""
    inputs = tensors(case, dtype, batch)
    truth = run(case, inputs, torch.float64, "reference")
    found = run(case, inputs, dtype, backend)
    return {name: ((found[name].double() - value).abs().max() / scale(value)).item() for name, value in truth.items()}
