"""Random arguments for every member, and how results are compared. Shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

DECAYS = ("none", "const", "scalar", "vector")
WRITES = ("plain", "gate", "delta")


@dataclass
class Case:
    """Arguments of one call, all leaves that want gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor | None
    initial_state: Tensor | None
    delta: bool
    pieces: list[int] | None = None
    order: Tensor | None = None
    scale: float | None = None
    leaves: list[Tensor] = field(default_factory=list)

    def names(self) -> list[str]:
        """Names of `leaves`, for messages."""
        given = {
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "g": self.g,
            "beta": self.beta,
            "initial_state": self.initial_state,
        }
        return [name for name, x in given.items() if x is not None]


def make_case(
    decay: str,
    write: str,
    *,
    size_b: int = 2,
    size_n: int = 70,
    size_h: int = 2,
    size_k: int = 8,
    size_v: int = 5,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float64,
    pieces: list[int] | None = None,
    seed: int = 0,
) -> Case:
    """A case of one decay kind and one write kind; betas hit 0 and 1, log decays reach -strength and stay near 0 at times."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    q, k, v = (normal(size_b, size_n, size_h, e) for e in (size_k, size_k, size_v))
    if write == "delta":
        k = torch.nn.functional.normalize(k, dim=-1)
    shapes = {"const": (size_h,), "scalar": (size_b, size_n, size_h), "vector": (size_b, size_n, size_h, size_k)}
    g = None if decay == "none" else -strength * uniform(*shapes[decay]) ** 3
    beta = None
    if write != "plain":
        beta = uniform(size_b, size_n, size_h)
        beta[:, ::5], beta[:, 1::5] = 0.0, 1.0
    count = 1 if pieces is None else len(pieces) - 1
    state = normal(size_b * count, size_h, size_k, size_v)
    given = [None if x is None else x.to(dtype).requires_grad_() for x in (q, k, v, g, beta)]
    start = state.to(dtype if dtype == torch.float64 else torch.float32).requires_grad_()
    leaves = [x for x in (*given, start) if x is not None]
    return Case(*given, start, write == "delta", pieces, leaves=leaves)  # type: ignore[arg-type]


def weights_for(output: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed random weights that make a scalar of outputs and final states; bfloat16 holds them without rounding."""
    random = torch.Generator().manual_seed(1)
    w_output = torch.randn(output.shape, generator=random).bfloat16().double()
    return w_output, torch.randn(state.shape, generator=random).double()


def gradients(output: Tensor, state: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a weighted sum of outputs and final states."""
    w_output, w_state = weights_for(output, state)
    loss = (output.double() * w_output.to(output.device)).sum() + (state.double() * w_state.to(output.device)).sum()
    return list(torch.autograd.grad(loss, leaves))


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error over largest value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def rms_ratio(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error over that of the value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-30))
