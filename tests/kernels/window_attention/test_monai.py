"""Equal to MONAI's SwinTransformer blocks and Swin UNETR with the same weights, in outputs and all gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels import window_attention

swin_unetr = pytest.importorskip("monai.networks.nets.swin_unetr")

# divisible, padded, clipped on all axes, clipped on one axis and padded on another; 2D alike
GRIDS = [(8, 8, 8), (9, 7, 10), (3, 3, 3), (3, 9, 8), (8, 8), (9, 7), (3, 3), (3, 9)]


def our_part1(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """MONAI's `forward_part1` with the operator in place of pad, roll, partition, attention and their inverses."""
    attention = block.attn
    y = attention.qkv(block.norm1(x)).unflatten(-1, (3, block.num_heads, -1))
    y = window_attention(
        y, list(block.window_size), list(block.shift_size), attention.relative_position_bias_table,
        pad_mode="input", pad_qkv=attention.qkv.bias, bias_index="monai",
    )  # fmt: skip
    return attention.proj_drop(attention.proj(y))


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Largest error over largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6))


@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_block(grid: tuple[int, ...], shifted: bool) -> None:
    torch.manual_seed(0)
    window = (4,) * len(grid)
    shift = (2,) * len(grid) if shifted else (0,) * len(grid)
    block = swin_unetr.SwinTransformerBlock(12, 3, window, shift, qkv_bias=True).double()
    used, used_shift = swin_unetr.get_window_size(grid, window, shift)
    padded = [-(-length // size) * size for length, size in zip(grid, used, strict=True)]
    mask = swin_unetr.compute_mask(padded, used, used_shift, torch.device("cpu")).double()
    x = torch.randn(2, *grid, 12, dtype=torch.float64, requires_grad=True)
    leaves = [x, *block.norm1.parameters(), *block.attn.parameters()]
    expected, found = block.forward_part1(x, mask), our_part1(block, x, mask)
    direction = torch.randn_like(expected)
    assert close(found, expected, 1e-10)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        assert close(mine, theirs, 1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("use_v2", [False, True])
def test_swin_unetr(dims: int, use_v2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole network, the compiled backend in every block: clipped, padded and shifted windows occur in it.

    Leaky ReLUs are made linear: an input within rounding of 0 has either slope, and which one differs between processors.
    """
    torch.manual_seed(0)
    options = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": dims, "use_v2": use_v2}
    net = swin_unetr.SwinUNETR(**options).eval()
    for module in net.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 1.0
    image = torch.randn(1, 1, *(64, 32, 32)[:dims])
    expected = net(image)
    direction = torch.randn_like(expected)
    net.zero_grad()
    (expected * direction).sum().backward()
    theirs = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    monkeypatch.setattr(swin_unetr.SwinTransformerBlock, "forward_part1", our_part1)
    found = net(image)
    net.zero_grad()
    (found * direction).sum().backward()
    assert close(found, expected, 1e-4)
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, parameter in net.named_parameters():
        if name in theirs:
            assert parameter.grad is not None
            assert (parameter.grad - theirs[name]).abs().max() <= 1e-3 * theirs[name].abs().max() + 1e-5 * scale, name


def test_weights_load_unchanged() -> None:
    attention: nn.Module = swin_unetr.WindowAttention(12, 3, (7, 7, 7), qkv_bias=True)
    table = attention.get_parameter("relative_position_bias_table")
    assert window_attention(torch.randn(1, 6, 6, 6, 3, 3, 4), 7, 3, table, bias_index="monai").shape == (1, 6, 6, 6, 12)
