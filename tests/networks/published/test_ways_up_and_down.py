"""U-Mamba's residual block and way up, PCT-Net's ways down and up, against their definitions."""

import torch
from torch import Tensor, nn

from medseg.networks.convolutions.plain import BasicResidual
from medseg.networks.decoders import NearestUp, PreNormUp
from medseg.networks.steps_down import PooledConvolution
from tests.networks.agreement import Weights, assert_agrees, conv2d, instance_norm, site, under


def leaky(x: Tensor) -> Tensor:
    """Slope 0.01 below zero."""
    return torch.where(x > 0, x, 0.01 * x)


def unit(p: Weights, image: Tensor, stride: int = 1) -> Tensor:
    """Convolution and instance norm."""
    return instance_norm(p, "norm", conv2d(p, "convolution", image, stride=stride))


def basic(p: Weights, image: Tensor, stride: int = 1) -> Tensor:
    """The shortcut is a 1x1 convolution with a bias that no norm follows."""
    y = unit(under(p, "second."), leaky(unit(under(p, "first."), image, stride)))
    return leaky(y + conv2d(p, "shortcut", image, stride=stride))


def test_the_shortcut_of_the_residual_block_is_a_convolution_without_norm() -> None:
    assert_agrees(BasicResidual(site(5), 3, (2, 2)), lambda p, x: basic(p, x, 2), torch.randn(2, 3, 6, 7))


class OnTwo(nn.Module):
    """The way up as a function of one tensor: the map below and the skip side by side."""

    def __init__(self, up: nn.Module) -> None:
        super().__init__()
        self.up = up

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return self.up(below, skip)


def test_the_way_up_repeats_voxels_and_then_has_residual_blocks() -> None:
    def formula(p: Weights, below: Tensor, skip: Tensor) -> Tensor:
        p = under(p, "up.")
        wide = conv2d(p, "match", below.repeat_interleave(2, 2).repeat_interleave(2, 3))[:, :, : skip.shape[2]]
        y = basic(under(p, "blocks.0."), torch.cat([wide, skip], 1))
        q = under(p, "blocks.1.")
        return leaky(y + unit(under(q, "second."), leaky(unit(under(q, "first."), y))))

    up = OnTwo(NearestUp(site(4), 6, 4, (2, 2), 2))
    assert_agrees(up, formula, torch.randn(2, 6, 3, 4), torch.randn(2, 4, 5, 8))


def before(p: Weights, norm: str, act: str, image: Tensor) -> Tensor:
    """Norm, then PReLU with one slope for all channels."""
    y = instance_norm(p, norm, image)
    return torch.where(y > 0, y, p[f"{act}.weight"] * y)


def test_pctnet_goes_down_by_pooling_norm_prelu_and_convolution() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        pooled = image.unflatten(2, [-1, 2]).unflatten(4, [-1, 2]).amax((3, 5))
        return conv2d(p, "convolution", before(p, "norm", "act", pooled))

    assert_agrees(PooledConvolution(site(5), 3, (2, 2)), formula, torch.randn(2, 3, 6, 8))


def test_pctnet_goes_up_by_norm_prelu_and_transposed_convolution() -> None:
    def formula(p: Weights, below: Tensor, skip: Tensor) -> Tensor:
        p = under(p, "up.")
        x = before(p, "up_norm", "up_act", below)
        spread = torch.einsum("bcxy,coij->boxiyj", x, p["up.weight"]).flatten(4, 5).flatten(2, 3)
        up = (spread + p["up.bias"][:, None, None])[:, :, : skip.shape[2]]
        return conv2d(p, "convolution", before(p, "norm", "act", torch.cat([skip, up], 1)))

    up = OnTwo(PreNormUp(site(4), 6, 4, (2, 2)))
    assert_agrees(up, formula, torch.randn(2, 6, 3, 4), torch.randn(2, 4, 5, 8))
