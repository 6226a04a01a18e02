"""The truth of the compat functions: their recurrences, step by step in float64, written apart from the implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-5  # largest error over largest value, in float32

Named = dict[str, Any]


def scan_steps(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
               delta_bias: Tensor | None = None, delta_softplus: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The selective scan of (B, D, L), and its last state (B, D, S)."""
    batch, dim, length = u.shape
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = functional.softplus(step) if delta_softplus else step

    def at(x: Tensor, t: int) -> Tensor:
        """B or C of one step as (B, D, S)."""
        if x.dim() == 2:
            return x.expand(batch, -1, -1)
        x = x[..., t]
        return x[:, None].expand(-1, dim, -1) if x.dim() == 2 else x.repeat_interleave(dim // x.shape[1], 1)

    state, ys = u.new_zeros(batch, dim, A.shape[1]), []
    for t in range(length):
        size = step[:, :, t, None]
        state = torch.exp(size * A) * state + size * at(B, t) * u[:, :, t, None]
        ys.append((state * at(C, t)).sum(-1))
    y = torch.stack(ys, -1)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * functional.silu(z), state


def taps(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, before: Tensor | None = None) -> Tensor:
    """The causal depthwise convolution of (B, D, L), with what stood before it or zeros."""
    width = weight.shape[1]
    before = x.new_zeros(*x.shape[:2], width - 1) if before is None else before
    whole = torch.cat([before, x], -1)
    y = sum(weight[:, j, None] * whole[..., j : j + x.shape[-1]] for j in range(width))
    y = y if bias is None else y + bias[:, None]
    return functional.silu(y) if silu else y


def inner_steps(xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj: Tensor, dt_proj: Tensor, A: Tensor,
                B: Tensor | None = None, C: Tensor | None = None, **rest: Any) -> Tensor:  # fmt: skip
    """Mamba's inner part: (B, 2 D, L) -> (B, D, L)."""
    x, z = xz.chunk(2, 1)
    v = taps(x, conv1d_weight[:, 0], conv1d_bias, silu=True)
    mixed = torch.einsum("oi,bil->bol", x_proj, v)
    low, write, read = mixed.split([dt_proj.shape[1], A.shape[1], A.shape[1]], 1)
    for bias, name in ((rest.pop("B_proj_bias", None), "B"), (rest.pop("C_proj_bias", None), "C")):
        if bias is not None:
            write, read = (write + bias[:, None], read) if name == "B" else (write, read + bias[:, None])
    step = torch.einsum("dk,bkl->bdl", dt_proj, low)
    return scan_steps(v, step, A, write if B is None else B, read if C is None else C, z=z, **rest)[0]


def head_steps(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
               start: Tensor | None = None, seq_idx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mamba-2's scan of (B, L, H, P) with final step sizes dt (B, L, H), and its last state (B, H, P, S)."""
    heads = x.shape[2]
    B, C = (t.repeat_interleave(heads // t.shape[2], 2) for t in (B, C))
    state = x.new_zeros(x.shape[0], heads, x.shape[3], B.shape[3]) if start is None else start
    ys = []
    for t in range(x.shape[1]):
        if seq_idx is not None and t:
            same = (seq_idx[:, t] == seq_idx[:, t - 1]).to(x.dtype)
            state = state * same[:, None, None, None]
        drive = torch.einsum("bh,bhp,bhs->bhps", dt[:, t], x[:, t], B[:, t])
        state = torch.exp(dt[:, t] * A)[..., None, None] * state + drive
        ys.append(torch.einsum("bhps,bhs->bhp", state, C[:, t]))
    y = torch.stack(ys, 1)
    y = y if D is None else y + (D if D.dim() == 2 else D[:, None]) * x
    return y if z is None else y * functional.silu(z), state


def draw(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Normal numbers in float64 by name, the same every time; `A...` negative."""
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: -x.abs() - 0.1 if name.startswith("A") else x for name, x in drawn.items()}


def assert_equal_to_truth(found: Callable[[Named], Any], truth: Callable[[Named], Any], inputs: Named) -> None:
    """Outputs and the gradients of all inputs, in float32 against float64."""
    results = []
    for function, dtype in ((found, torch.float32), (truth, torch.float64)):
        given = {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}
        outputs = function(given)
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        generator = torch.Generator().manual_seed(1)
        pulls = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype) for y in outputs]
        loss = sum((y * pull).sum() for y, pull in zip(outputs, pulls, strict=True))
        grads = torch.autograd.grad(loss, list(given.values()))
        results.append([*outputs, *grads])
    names = [*(f"output {i}" for i in range(len(outputs))), *(f"gradient of {name}" for name in inputs)]
    for name, ours, true in zip(names, *results, strict=True):
        assert error(ours, true) <= TOLERANCE, f"{name}: {error(ours, true):.2g}"


def error(found: Tensor, truth: Tensor) -> float:
    """Largest error over largest value."""
    assert found.shape == truth.shape
    found, truth = found.detach(), truth.detach()
    return float((found.double() - truth.double()).abs().max() / truth.double().abs().max().clamp(min=1e-30))
