"""Value changes: the compiled form against the torch form, on odd, flat and shifted channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medseg_kernels import dispatch
from medseg_kernels.warp.values import change_gamma, stretch_contrast, symmetric_filter

CHANGES: dict[str, Callable[[Tensor, str], None]] = {
    "gamma": lambda v, b: change_gamma(v, 1.37, backend=b),
    "inverted gamma": lambda v, b: change_gamma(v, 0.71, inverted=True, backend=b),
    "contrast": lambda v, b: stretch_contrast(v, 1.2, backend=b),
    "filter": lambda v, b: symmetric_filter(v, [0.5, 0.2, 0.05], backend=b),
}


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    if (reason := dispatch.refuse_cpu()) is not None:
        pytest.skip(f"no compiler: {reason}")


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(17, 13, 11), (40, 56, 40), (9, 7, 1), (1, 1, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-1000.0, 30.0), (0.0, 0.0)])
def test_compiled_equals_torch(name: str, shape: tuple[int, ...], shift: float, scale: float) -> None:
    start = shift + scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fast, slow = start.clone(), start.clone()
    CHANGES[name](fast, "cpu")
    CHANGES[name](slow, "reference")
    spread = max(scale, 1e-3)
    assert torch.isfinite(fast).all()
    assert float((fast - slow).abs().max()) <= 2e-4 * spread + 1e-6 * abs(shift)


def test_a_filter_of_sum_one_keeps_a_constant_and_spreads_a_point() -> None:
    flat, point = torch.full((6, 5, 4), 2.5), torch.zeros(9, 9, 9)
    point[4, 4, 4] = 1.0
    for channel in (flat, point):
        symmetric_filter(channel, [0.5, 0.25])
    assert torch.allclose(flat, torch.full_like(flat, 2.5))
    assert point[4, 4, 4] == 0.125
    assert point[3, 4, 5] == 0.5 * 0.25 * 0.25
    assert point[2, 4, 4] == 0


def test_what_is_not_contiguous_is_done_in_torch() -> None:
    start = torch.randn(6, 5, 4)
    turned, plain = start.clone().transpose(0, 2), start.clone().transpose(0, 2).contiguous()
    change_gamma(turned, 1.2)
    change_gamma(plain, 1.2)
    assert torch.allclose(turned, plain, atol=1e-5)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        change_gamma(torch.zeros(3, dtype=torch.float64), 1.2)


def test_a_switch_meant_for_the_networks_does_not_stop_the_data_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = torch.randn(4, 5, 6)
    monkeypatch.setenv("MEDSEG_BACKEND", "triton")
    change_gamma(channel, 1.1)
    monkeypatch.setenv("MEDSEG_WARP_BACKEND", "triton")
    with pytest.raises(ValueError, match="unknown backend 'triton'"):
        change_gamma(channel, 1.1)
