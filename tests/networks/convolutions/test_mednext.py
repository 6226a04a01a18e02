"""MedNeXt's blocks and ways down and up against their definitions, written as sums over taps and voxels."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medseg.networks.convolutions.mednext import MedNeXt, MedNeXtDown, MedNeXtUp
from tests.networks.agreement import Weights, assert_agrees, conv2d, gelu, instance_norm, site, under

IMAGE = (2, 6, 5, 8)


def pointwise_mix(p: Weights, image: Tensor) -> Tensor:
    """Norm with one channel per group, expansion, GELU, reduction."""
    return conv2d(p, "reduce", gelu(conv2d(p, "expand", instance_norm(p, "norm", image))))


def test_mednext_block_and_way_down() -> None:
    def block(p: Weights, image: Tensor) -> Tensor:
        return image + pointwise_mix(under(p, "mix."), conv2d(p, "depthwise", image, groups=6))

    def down(p: Weights, image: Tensor) -> Tensor:
        branch = pointwise_mix(under(p, "mix."), conv2d(p, "depthwise", image, stride=2, groups=4))
        return branch + conv2d(p, "shortcut", image, stride=2)

    assert_agrees(MedNeXt(site(6), kernel=5, ratio=3), block, torch.randn(IMAGE))
    assert_agrees(MedNeXtDown(site(6), 4, (2, 2)), down, torch.randn(2, 4, 6, 8))


def response_norm(p: Weights, hidden: Tensor) -> Tensor:
    """Every channel weighed by its length over space, relative to the channels' mean length."""
    length = (hidden**2).sum(dim=(2, 3), keepdim=True).sqrt()
    return (
        hidden + p["response.gamma"] * hidden * length / (length.mean(dim=1, keepdim=True) + 1e-6) + p["response.beta"]
    )


@pytest.mark.parametrize("kernel", [3, 5])
def test_mednext_way_up_has_its_zero_plane_on_the_near_side(kernel: int) -> None:
    def spread(p: Weights, name: str, image: Tensor) -> Tensor:
        """out[2 i + k - K // 2] += w[k] in[i], for 0 <= index < 2 n - 1, written as a sum over taps and voxels."""
        weight, sides = p[f"{name}.weight"], [2 * n - 1 for n in image.shape[2:]]
        size, depthwise = weight.shape[2], weight.shape[1] == 1
        out = torch.zeros(image.shape[0], weight.shape[0] if depthwise else weight.shape[1], *sides, dtype=image.dtype)
        for k, m in itertools.product(range(size), repeat=2):
            for i, j in itertools.product(*map(range, image.shape[2:])):
                x, y = 2 * i + k - size // 2, 2 * j + m - size // 2
                if 0 <= x < sides[0] and 0 <= y < sides[1]:
                    voxel = image[:, :, i, j]
                    part = voxel * weight[:, 0, k, m] if depthwise else voxel @ weight[:, :, k, m]
                    out[:, :, x, y] = out[:, :, x, y] + part
        return out + p[f"{name}.bias"][:, None, None]

    def formula(p: Weights, image: Tensor) -> Tensor:
        short = pointwise_mix(under(p, "mix."), spread(p, "depthwise", image)) + spread(p, "shortcut", image)
        whole = torch.zeros(*short.shape[:2], short.shape[2] + 1, short.shape[3] + 1, dtype=short.dtype)
        whole[:, :, 1:, 1:] = short
        return whole

    assert_agrees(MedNeXtUp(site(4), 6, (2, 2), kernel=kernel), formula, torch.randn(2, 6, 3, 4))


def test_mednext_way_up_is_filled_on_the_near_side_of_every_strided_axis() -> None:
    """(n - 1) s + 1 voxels carry values: the planes before them are zero, and an axis without stride has none."""
    made = MedNeXtUp(replace(site(4), spatial_dims=3, kernel_size=(1, 3, 3)), 6, (1, 2, 4))
    out = made(torch.randn(1, 6, 2, 3, 2))
    assert out.shape == (1, 4, 2, 6, 8)
    assert not out[..., :1, :].any()
    assert not out[..., :3].any()
    assert (out[:, :, :, 1:, 3:] != 0).all()


def test_mednext_of_version_2_norms_the_response_of_its_hidden_channels() -> None:
    def block(p: Weights, image: Tensor) -> Tensor:
        q = under(p, "mix.")
        hidden = gelu(conv2d(q, "expand", instance_norm(q, "norm", conv2d(p, "depthwise", image, groups=6))))
        return image + conv2d(q, "reduce", response_norm(q, hidden))

    assert_agrees(MedNeXt(site(6), grn=True), block, torch.randn(IMAGE))
