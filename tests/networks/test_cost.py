"""The operators' arithmetic is that of the products they stand for."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medseg.networks.contract import Context, Site
from medseg.networks.cost import COUNTS
from medseg.networks.mixers import MIXERS
from medseg_kernels import gated_delta_rule, selective_scan, short_conv, window_attention


def count(run: Callable[..., object], *args: object, **options: object) -> int:
    with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
        run(*args, **options)
    return counter.get_total_flops()


def test_attention_on_a_cpu_counts_its_two_products() -> None:
    q, k = torch.randn(2, 4, 33, 8), torch.randn(2, 4, 20, 8)
    found = count(functional.scaled_dot_product_attention, q, k, k)
    with sdpa_kernel(SDPBackend.MATH):  # matrix products, which torch counts by itself
        assert found == count(functional.scaled_dot_product_attention, q, k, k) > 0


@pytest.mark.parametrize("window", [[4, 4, 4], [2, 4, 8]])
def test_window_attention_counts_the_products_within_its_windows(window: list[int]) -> None:
    found = count(window_attention, torch.randn(1, 8, 8, 8, 3, 2, 16), window, 0)
    tokens = window[0] * window[1] * window[2]
    parts = torch.randn(512 // tokens, 2, tokens, 16)
    with sdpa_kernel(SDPBackend.MATH):
        assert found == count(functional.scaled_dot_product_attention, parts, parts, parts) > 0


def test_a_sliding_window_counts_its_neighbourhood_and_not_the_grid() -> None:
    qkv = torch.randn(1, 8, 8, 8, 3, 2, 16)
    assert count(window_attention, qkv, [8, 8, 8], 0, radius=[1, 1, 1]) == 4 * 512 * 27 * 32


@pytest.mark.parametrize("orders", [["raster"], ["raster", "reversed raster", "raster:ZYX"]])
def test_a_scan_counts_every_order(orders: list[str]) -> None:
    u, states = torch.randn(2, 4, 3, 5, 6), torch.randn(2, 4, 3, 5, 8)
    found = count(selective_scan, u, torch.rand_like(u), -torch.rand(6, 8), states, states, traversals=orders)
    assert found == 6 * 2 * 60 * 6 * 8 * len(orders)


def test_a_short_convolution_counts_its_taps() -> None:
    x = torch.randn(2, 4, 3, 5, 6)
    assert count(short_conv, x, torch.randn(6, 4), None) == 2 * 2 * 60 * 6 * 4


def test_a_delta_rule_counts_forgetting_the_old_value_writing_and_reading() -> None:
    q, v, g = torch.randn(1, 4, 4, 4, 2, 8), torch.randn(1, 4, 4, 4, 2, 6), -torch.rand(1, 4, 4, 4, 2)
    assert count(gated_delta_rule, q, q, v, g, g.exp()) == (1 + 2 + 2 + 2) * 64 * 2 * 8 * 6


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"identity"}))
def test_every_mixer_computes_more_than_its_linear_maps(name: str) -> None:
    """No operator goes uncounted: between tokens every mixer does something."""
    torch.manual_seed(0)
    site = Site(width=96, num_heads=6, window_size=(4, 4, 4), spatial_dims=3, condition_width=8)
    kind = MIXERS[name]
    mixer, x = kind(site), torch.randn(1, 8, 8, 8, 96)
    context = Context(None, None, torch.randn(1, 8), None)
    prepare = getattr(kind, "prepare", None)
    if prepare is not None:
        context = prepare(site)(x, context)
    maps = [0]
    for module in mixer.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, given, out: maps.append(2 * out.numel() * m.in_features))
    assert count(mixer, x, context) > sum(maps) > 0
