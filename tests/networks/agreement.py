"""A block against its published formula: the same weights, outputs and every gradient, in float32 and in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.build_stage import StageBuilder
from medseg.networks.contract import Context, Site

RELATIVE = 1e-5  # of the largest value of a tensor; float32 against float64
EXACT = 1e-9  # float64 against float64

Formula = Callable[..., Tensor]
Weights = Mapping[str, Tensor]


class OnTokens(nn.Module):
    """A token mixer as a function of tensors only, so that it can be compared and differentiated."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.mixer(x, Context(None, None, condition))[0]


def site(width: int, *, dims: int = 2, **options: Any) -> Site:
    """A place in a 2D network; `window` is the same along both axes."""
    window = options.pop("window", None)
    size = None if window is None else ((window, window, 1) if isinstance(window, int) else window)
    kernel = options.pop("kernel_size", (3,) * dims)
    return Site(
        width=width, num_heads=options.pop("num_heads", 1), window_size=size, spatial_dims=dims, kernel_size=kernel,
        **options,
    )  # fmt: skip


def stage(place: Site, layers: tuple[Any, ...], options: Mapping[str, Mapping[str, Any]] | None = None) -> nn.Module:
    """A stage of these sub-layers, as a network has it: image in, image out."""
    return StageBuilder(place, options or {}, None, [0.0] * 64).stage(layers)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter away from where it starts: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.3 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return module


def assert_agrees(
    module: nn.Module, formula: Formula, *inputs: Tensor, tolerance: float = RELATIVE, exact_to: float = EXACT
) -> None:
    """`module(*inputs)` equals `formula(weights, *inputs)`, and so do the gradients of every weight and input.

    In the type of the inputs, and then in float64 to `exact_to`.
    """
    randomise(module)
    exact = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    theirs = [x.double().requires_grad_() for x in inputs]
    expected = formula(exact, *theirs)
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, [*exact.values(), *theirs], seed.double(), allow_unused=True)
    names = [*exact, *(f"input {i}" for i in range(len(inputs)))]
    largest = max(float(b.abs().max()) for b in wanted if b is not None)
    for kind, limit in ((inputs[0].dtype, tolerance), (torch.float64, exact_to)):
        module = module.to(kind)
        ours = [x.to(kind).requires_grad_() for x in inputs]
        found = module(*ours)
        assert found.shape == expected.shape
        assert found.dtype == kind
        got = torch.autograd.grad(found, [*module.parameters(), *ours], seed.to(kind), allow_unused=True)
        assert_close(f"{kind} output", found, expected, limit)
        for name, a, b in zip(names, got, wanted, strict=True):
            assert (a is None) == (b is None), f"{name}: only one of the two depends on it"
            if a is not None and b is not None:
                assert_close(f"{kind} gradient of {name}", a, b, limit, largest)


def assert_close(name: str, found: Tensor, expected: Tensor, tolerance: float, otherwise: float = 1.0) -> None:
    """Largest difference at most `tolerance` times the largest expected value.

    A gradient that is 0 in exact arithmetic (a bias in front of a norm) is measured against `otherwise`.
    """
    difference = float((found.double() - expected.double()).abs().max().detach())
    scale = float(expected.abs().max().detach())
    scale = scale if scale > 1e-9 * otherwise else otherwise
    assert difference <= tolerance * scale, f"{name}: differs by {difference / scale:.2e} of its largest value"


# Pieces of formulas, in plain torch; `p` is a mapping of weights, names relative to a prefix that ends with a dot.


def under(p: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in p.items() if name.startswith(prefix)}


def linear(p: Weights, name: str, x: Tensor) -> Tensor:
    """x W^T + b."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x))."""
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    """The exact form, with the error function."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation with the hyperbolic tangent."""
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return torch.logaddexp(x, torch.zeros_like(x))


def layer_norm(p: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Over the last axis."""
    y = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + eps)
    return y * p[f"{name}.weight"] + p[f"{name}.bias"] if f"{name}.weight" in p else y


def rms_norm(gain: Tensor, x: Tensor, eps: float = 1e-5) -> Tensor:
    """x / root mean square over the last axis, times a gain."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis."""
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def per_window(x: Tensor, side: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Cut (B, X, Y, C) into windows, apply `compute` to the tokens (B, T, C) of each, put them back together."""
    rows = []
    for i in range(0, x.shape[1], side):
        row = []
        for j in range(0, x.shape[2], side):
            part = x[:, i : i + side, j : j + side]
            out = compute(part.flatten(1, 2))
            row.append(out.unflatten(1, [part.shape[1], part.shape[2]]))
        rows.append(torch.cat(row, 2))
    return torch.cat(rows, 1)


def conv2d(p: Weights, name: str, image: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution written as a sum over its taps, padded with half a kernel of zeros."""
    weight = p[f"{name}.weight"]
    kx, ky = weight.shape[2:]
    padded = functional.pad(image, [ky // 2, ky // 2, kx // 2, kx // 2])
    nx = (padded.shape[2] - kx) // stride + 1
    ny = (padded.shape[3] - ky) // stride + 1
    per_group = image.shape[1] // groups
    out_group = weight.shape[0] // groups
    total = torch.zeros(image.shape[0], weight.shape[0], nx, ny, dtype=image.dtype)
    for i in range(kx):
        for j in range(ky):
            view = padded[:, :, i : i + stride * (nx - 1) + 1 : stride, j : j + stride * (ny - 1) + 1 : stride]
            part = view.unflatten(1, [groups, per_group])
            taps = weight[:, :, i, j].unflatten(0, [groups, out_group])
            total = total + torch.einsum("bgixy,goi->bgoxy", part, taps).flatten(1, 2)
    return total + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else total


def instance_norm(p: Weights, name: str, image: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample by itself, then gain and offset where there are any."""
    y = image - image.mean((2, 3), keepdim=True)
    y = y / torch.sqrt((y * y).mean((2, 3), keepdim=True) + eps)
    return y * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None] if f"{name}.weight" in p else y
