"""Once per op: a side stream, capture and replay as a graph, autocast, torch.compile, one real tensor beyond 2^31 elements."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from gpu_parts.timing import captured
from torch import Tensor

import medseg_kernels as kernels

BOUND = 3e-2


def _scan(x: Tensor) -> Tensor:
    rate = -torch.arange(1.0, 5.0, device=x.device).expand(x.shape[-1], 4)
    return kernels.selective_scan(
        x, x, rate, x[..., :4], x[..., 4:8], delta_softplus=True, traversals=["snake", "raster"]
    )


def _window(x: Tensor) -> Tensor:
    qkv = x.unflatten(-1, (1, 1, -1)).expand(*x.shape[:-1], 3, 1, x.shape[-1])
    return kernels.window_attention(qkv, 4, 2, torch.linspace(-1, 1, 343, device=x.device).unsqueeze(1))


def _recurrence(x: Tensor) -> Tensor:
    heads = x.unflatten(-1, (1, -1))
    return kernels.gated_linear_recurrence(
        heads, heads, heads, -torch.ones(1, device=x.device), traversals=["raster:ZYX"]
    )[0]


def _conv(x: Tensor) -> Tensor:
    return kernels.short_conv(x, torch.ones(x.shape[-1], 4, device=x.device), silu=True)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "selective_scan": _scan,
    "window_attention": _window,
    "gated_linear_recurrence": _recurrence,
    "short_conv": _conv,
}


def _input(device: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(1, 8, 8, 8, 16, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _compared(found: Tensor, expected: Tensor) -> dict[str, Any]:
    distance = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    return {"error": distance, "wrong": {} if distance < BOUND else {"error": distance}}


def side_stream(call: Callable[[Tensor], Tensor], device: str) -> dict[str, Any]:
    """The same on another stream."""
    x = _input(device)
    expected = call(x)
    if device != "cuda":
        return _compared(call(x), expected)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = call(x)
    torch.cuda.current_stream().wait_stream(stream)
    return _compared(found, expected)


def graph(call: Callable[[Tensor], Tensor], device: str) -> dict[str, Any]:
    """Captured, then replayed on other numbers, forward and backward."""
    x = _input(device).requires_grad_()
    kept: dict[str, Tensor] = {}

    def both() -> None:
        out = call(x)
        kept["out"] = out
        kept["grad"] = torch.autograd.grad(out.float().sum(), x)[0]

    replayed = captured(both)
    fresh = _input(device).flip(1)
    with torch.no_grad():
        x.copy_(fresh)
    replayed.replay()
    again = fresh.clone().requires_grad_()
    out = call(again)
    grad = torch.autograd.grad(out.float().sum(), again)[0]
    found = {"out": _compared(kept["out"], out)["error"], "grad": _compared(kept["grad"], grad)["error"]}
    return {**found, "wrong": {name: value for name, value in found.items() if not value < 1e-6}}


def autocast(call: Callable[[Tensor], Tensor], device: str) -> dict[str, Any]:
    """Under autocast to bfloat16 against float32."""
    x = _input(device, torch.float32)
    expected = call(x)
    with torch.autocast(device, torch.bfloat16):
        found = call(x)
    return _compared(found, expected)


def compiled(call: Callable[[Tensor], Tensor], device: str) -> dict[str, Any]:
    """One graph by torch.compile."""
    x = _input(device)
    return _compared(torch.compile(call, fullgraph=True)(x), call(x))


def huge(call: Callable[[Tensor], Tensor], device: str) -> dict[str, Any]:
    """A tensor of more than 2^31 elements: its last sample alone gives the same."""
    samples = 2**31 // (128**3 * 16) + 2
    x = torch.randn(samples, 128, 128, 128, 16, device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        return _compared(call(x)[-1:], call(x[-1:]))


KINDS = {"side stream": side_stream, "graph": graph, "autocast": autocast, "compile": compiled, "beyond 2^31": huge}


SPECIALS: dict[tuple[str, str], Callable[[str], dict[str, Any]]] = {
    (family, what): functools.partial(kind, call) for family, call in CALLS.items() for what, kind in KINDS.items()
}
