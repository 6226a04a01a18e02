"""Forward-mode derivatives: the right tangent or an error, for every op; torch drops tangents at an op without saying so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jacfwd, jvp

import medseg_kernels as kernels


def r(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape))


def scan(u: Tensor) -> Tensor:
    return kernels.selective_scan(u, u.abs(), -r(4, 3).abs(), r(1, 2, 3, 2, 3), r(1, 2, 3, 2, 3))


def scan_of_rates(rates: Tensor) -> Tensor:
    x = r(1, 2, 3, 2, 4)
    return kernels.selective_scan(x, x.abs(), -rates.exp(), r(1, 2, 3, 2, 3), r(1, 2, 3, 2, 3))


def recurrence(q: Tensor) -> Tensor:
    return kernels.gla(q, r(1, 7, 2, 3), r(1, 7, 2, 4), -r(1, 7, 2, 3).abs())[0]


def delta_rule(v: Tensor) -> Tensor:
    q = torch.nn.functional.normalize(r(1, 7, 2, 3), dim=-1)
    return kernels.gated_delta_rule(q, q, v, -r(1, 7, 2).abs(), r(1, 7, 2).sigmoid())[0]


def convolved(u: Tensor) -> Tensor:
    return kernels.convolved_scan(u, None, r(1, 4, 3), None, r(1, 8, 4), r(1, 4, 2), -r(1, 4, 3).abs())


CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "scan": (scan, r(1, 2, 3, 2, 4)),
    "scan's rates": (scan_of_rates, r(4, 3)),
    "gla": (recurrence, r(1, 7, 2, 3)),
    "delta rule": (delta_rule, r(1, 7, 2, 4)),
    "attention": (lambda x: kernels.window_attention(x, 2, 1), r(1, 4, 3, 2, 3, 2, 4)),
    "convolution": (lambda x: kernels.short_conv(x, r(4, 3)), r(1, 2, 3, 2, 4)),
    "taps": (lambda w: kernels.short_conv(r(1, 2, 3, 2, 4), w), r(4, 3)),
    "convolved scan": (convolved, r(1, 2, 3, 2, 4)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_tangent_is_refused_by_name_and_reverse_mode_goes_on(name: str) -> None:
    function, x = CALLS[name]
    with pytest.raises(NotImplementedError, match="forward-mode"):
        jvp(function, (x,), (torch.ones_like(x),))
    with pytest.raises(NotImplementedError, match="forward-mode"):
        jacfwd(function)(x)
    with forward_ad.dual_level():
        with pytest.raises(NotImplementedError, match="forward-mode"):
            function(forward_ad.make_dual(x, torch.ones_like(x)))
        function(x)  # no tangent: nothing to drop
    (gradient,) = torch.autograd.grad(function(leaf := x.clone().requires_grad_()).sum(), leaf)
    assert gradient.abs().sum() > 0


def in_place(op: Callable[..., None], *arguments: object) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        changed = x * 1.0
        op(changed, *arguments)
        return changed

    return call


def patch(x: Tensor) -> Tensor:
    cut, _ = kernels.warp_patch(x[None], None, np.eye(3, 4), (3, 3, 3))
    assert cut is not None
    return cut


UNDERIVED: dict[str, Callable[[Tensor], Tensor]] = {
    "change_gamma": in_place(kernels.change_gamma, 1.3),
    "stretch_contrast": in_place(kernels.stretch_contrast, 1.3),
    "symmetric_filter": in_place(kernels.symmetric_filter, [0.5, 0.25]),
    "warp_patch": patch,
}


@pytest.mark.parametrize("name", UNDERIVED)
def test_what_changes_images_for_training_refuses_every_derivative_by_name(name: str) -> None:
    """In place they would keep the gradient and the tangent of the image as it was: right for no function at all."""
    function, x = UNDERIVED[name], r(4, 4, 4).float()
    with pytest.raises(NotImplementedError, match=f"{name}: has no forward-mode"):
        jvp(function, (x,), (torch.ones_like(x),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=f"{name}: has no forward-mode"):
        function(forward_ad.make_dual(x, torch.ones_like(x)))
    leaf = x.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=f"{name}: has no derivatives"):
        function(leaf)
    with torch.no_grad():
        assert torch.equal(function(leaf), function(x))
