"""Convolution kinds, entries and steps around them, against their definitions written as sums over taps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.convolutions.gated import ConvNeXt, GatedSpatialConv, MBConv
from medseg.networks.convolutions.plain import Depthwise, HybridConv, ResidualConv, ResidualDown
from medseg.networks.convolutions.unetr import UnetrBlock
from medseg.networks.decoders import UnetrUp, UpBlock
from medseg.networks.network import DualEncoder
from medseg.networks.recipe import Parallel
from medseg.networks.skips import NormMLP
from medseg.networks.steps_down import NormConvolution, PatchMerging, ReduceSize, Stem, StemPatchify
from tests.networks.agreement import (
    Weights,
    assert_agrees,
    conv2d,
    gelu,
    gelu_tanh,
    instance_norm,
    layer_norm,
    linear,
    silu,
    site,
    stage,
    under,
)
from tests.networks.published.test_attention import attend, mlp, relative_bias
from tests.networks.published.test_scans import interslice, one_direction

IMAGE = (2, 6, 5, 8)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU with a slope of 0.01."""
    return torch.where(x > 0, x, 0.01 * x)


def batch_norm(p: Weights, name: str, image: Tensor, eps: float = 1e-5) -> Tensor:
    """With the statistics of the batch."""
    y = image - image.mean((0, 2, 3), keepdim=True)
    y = y / torch.sqrt((y * y).mean((0, 2, 3), keepdim=True) + eps)
    return y * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def channel_norm(p: Weights, name: str, image: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels of an image."""
    return layer_norm(p, f"{name}.norm", image.movedim(1, -1), eps).movedim(-1, 1)


@pytest.mark.parametrize(("name", "act"), [("gelu_tanh", gelu_tanh), ("gelu", gelu)])
def test_hybrid_block_of_mambavision_and_fastervit(name: str, act: Callable[[Tensor], Tensor]) -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        branch = act(batch_norm(p, "first_norm", conv2d(p, "first", image)))
        branch = batch_norm(p, "second_norm", conv2d(p, "second", branch))
        return image + branch

    assert_agrees(HybridConv(site(6, norm="batch", layer_scale=1e-5), gelu=name), formula, torch.randn(IMAGE))


def test_stem_norms_with_a_larger_epsilon() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        y = conv2d(p, "convolution", image, stride=2) * 1e-2  # small values, so that the epsilon counts
        return torch.relu(batch_norm(p, "norm", y, 1e-4))

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = Stem(site(6, norm="batch"), 3, (2, 2))

        def forward(self, image: Tensor) -> Tensor:
            return self.stem.act(self.stem.norm(self.stem.convolution(image) * 1e-2))

    assert_agrees(Small(), lambda p, image: formula(under(p, "stem."), image), torch.randn(2, 3, 6, 10))


def unit(p: Weights, image: Tensor, *, act: bool = True) -> Tensor:
    """Convolution without bias, instance norm, leaky ReLU."""
    y = instance_norm(p, "norm", conv2d(p, "convolution", image))
    return leaky(y) if act else y


@pytest.mark.parametrize("channels_in", [6, 4])
def test_residual_block_of_the_residual_encoder(channels_in: int) -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        branch = unit(under(p, "second."), unit(under(p, "first."), image), act=False)
        shortcut = image if channels_in == 6 else unit(under(p, "shortcut."), image, act=False)
        return leaky(shortcut + branch)

    block = ResidualConv(site(6), channels_in=channels_in)
    assert_agrees(block, formula, torch.randn(2, channels_in, 5, 8))


@pytest.mark.parametrize("channels_in", [6, 4])
def test_a_level_of_the_residual_encoder_is_entered_by_a_strided_block(channels_in: int) -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        first = under(p, "first.")
        branch = leaky(instance_norm(first, "norm", conv2d(first, "convolution", image, stride=2)))
        branch = unit(under(p, "second."), branch, act=False)
        shortcut = (image[:, :, ::2] + image[:, :, 1::2]) / 2
        pairs = (shortcut[..., 0:6:2] + shortcut[..., 1:6:2]) / 2
        shortcut = torch.cat([pairs, shortcut[..., 6:]], -1)  # the seventh column has no neighbour
        return leaky((shortcut if channels_in == 6 else unit(under(p, "shortcut."), shortcut, act=False)) + branch)

    assert_agrees(ResidualDown(site(6), channels_in, (2, 2)), formula, torch.randn(2, channels_in, 6, 7))


def unetr_block(p: Weights, image: Tensor) -> Tensor:
    """Two convolutions without biases, plain instance norms; a normed 1x1 shortcut where the width changes."""
    branch = instance_norm({}, "", conv2d(p, "conv1", image))
    branch = instance_norm({}, "", conv2d(p, "conv2", leaky(branch)))
    shortcut = instance_norm({}, "", conv2d(p, "conv3", image)) if "conv3.weight" in p else image
    return leaky(branch + shortcut)


def upsample(p: Weights, name: str, image: Tensor) -> Tensor:
    """A transposed convolution as long as its stride of two: every voxel becomes a block."""
    weight = p[f"{name}.weight"]
    y = torch.einsum("bixy,iokl->boxkyl", image, weight)
    y = y.reshape(y.shape[0], y.shape[1], 2 * image.shape[2], 2 * image.shape[3])
    return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y


def test_unetr_decoder_step_crops_what_was_rounded_up() -> None:
    def formula(p: Weights, below: Tensor, skip: Tensor) -> Tensor:
        up = upsample(p, "up", below)[:, :, : skip.shape[2], : skip.shape[3]]
        return unetr_block(under(p, "block."), torch.cat([up, skip], 1))

    step = UnetrUp(site(6), 8, (2, 2))
    assert_agrees(step, formula, torch.randn(2, 8, 3, 4), torch.randn(2, 6, 5, 8))
    assert_agrees(UnetrBlock(site(6)), unetr_block, torch.randn(IMAGE))


def test_unet_decoder_step() -> None:
    def formula(p: Weights, below: Tensor, skip: Tensor) -> Tensor:
        up = upsample(p, "up", below)[:, :, : skip.shape[2], : skip.shape[3]]
        return unit(under(p, "blocks.0."), torch.cat([up, skip], 1))

    assert_agrees(UpBlock(site(6), 8, 5, (2, 2)), formula, torch.randn(2, 8, 3, 4), torch.randn(2, 5, 5, 8))


def test_layer_scale_of_the_network_never_weighs_a_convolution_block() -> None:
    scaled, plain = (HybridConv(replace(site(6), layer_scale=value)) for value in (1e-5, None))
    plain.load_state_dict(scaled.state_dict())
    image = torch.randn(IMAGE)
    assert torch.equal(scaled(image), plain(image))


def gsc_unit(p: Weights, first: int, image: Tensor) -> Tensor:
    """Convolution with bias, instance norm, ReLU."""
    return torch.relu(instance_norm(p, f"{first + 1}", conv2d(p, f"{first}", image)))


def gated_spatial(p: Weights, image: Tensor) -> Tensor:
    """x + ReLU IN conv1(local(x) + pointwise(x)): added, not multiplied."""
    local = under(p, "local.")
    branch = gsc_unit(local, 3, gsc_unit(local, 0, image)) + gsc_unit(under(p, "pointwise."), 0, image)
    return image + gsc_unit(under(p, "join."), 0, branch)


def test_gated_spatial_convolution_adds_its_branches() -> None:
    assert_agrees(GatedSpatialConv(site(6)), gated_spatial, torch.randn(IMAGE))


def test_segmamba_stage_is_one_convolution_block_and_scans_without_an_mlp() -> None:
    sides = (3, 4)
    orders = [list(range(12)), list(reversed(range(12))), interslice(sides)]

    def formula(p: Weights, image: Tensor) -> Tensor:
        x = gated_spatial(under(p, "layers.0.block."), image).permute(0, 2, 3, 1).flatten(1, 2)
        for layer in (1, 2):
            q = under(p, f"layers.{layer}.mixer.")
            u, z = linear(q, "project_in", layer_norm(p, f"layers.{layer}.norm", x)).chunk(2, -1)
            total = torch.zeros_like(u)
            for index, order in enumerate(orders):
                total = total + one_direction(q, u[:, order], index, index)[:, torch.tensor(order).argsort()]
            x = x + linear(q, "project_out", total * silu(z))
        return x.unflatten(1, list(sides)).permute(0, 3, 1, 2)

    options = {
        "selective_scan": {"traversals": ("raster", "reversed raster", "interslice"), "separate": True, "state": 4}
    }
    module = stage(site(6), ("gated_spatial_conv", "selective_scan", "selective_scan"), options)
    assert_agrees(module, formula, torch.randn(2, 6, *sides))


def test_segmamba_skip_is_a_norm_and_an_mlp_without_a_shortcut() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        return conv2d(p, "reduce", gelu(conv2d(p, "expand", instance_norm(p, "norm", image))))

    assert_agrees(NormMLP(site(6)), formula, torch.randn(IMAGE))


def test_maxvit_inverted_residual() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        y = conv2d(p, "expand", instance_norm(p, "norm", image))
        y = conv2d(p, "depthwise", gelu(instance_norm(p, "expand_norm", y)), groups=24)
        y = gelu(instance_norm(p, "depthwise_norm", y))
        gate = linear(p, "squeeze.expand", silu(linear(p, "squeeze.reduce", y.mean((2, 3)))))
        return image + conv2d(p, "project", y * torch.sigmoid(gate)[:, :, None, None])

    assert_agrees(MBConv(site(6)), formula, torch.randn(IMAGE))


def test_convnext_block() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        y = channel_norm(p, "norm", conv2d(p, "depthwise", image, groups=6), 1e-6)
        return image + p["gain.gamma"][:, None, None] * conv2d(p, "reduce", gelu(conv2d(p, "expand", y)))

    assert_agrees(ConvNeXt(site(6, layer_scale=1e-6)), formula, torch.randn(IMAGE))


def test_gcvit_way_down_norms_on_both_sides() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        x = channel_norm(p, "before", image, 1e-5)
        q = under(p, "residual.")
        y = gelu(conv2d(q, "depthwise", x, groups=4))
        gate = linear(q, "squeeze.expand", gelu(linear(q, "squeeze.reduce", y.mean((2, 3)))))
        x = x + conv2d(q, "pointwise", y * torch.sigmoid(gate)[:, :, None, None])
        return channel_norm(p, "after", conv2d(p, "reduce", x, stride=2), 1e-5)

    assert_agrees(ReduceSize(site(6), 4, (2, 2)), formula, torch.randn(2, 4, 6, 10))


def test_fastervit_way_down_has_a_norm() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        return conv2d(p, "convolution", channel_norm(p, "norm", image, 1e-6), stride=2)

    assert_agrees(NormConvolution(site(6), 4, (2, 2)), formula, 1e-3 * torch.randn(2, 4, 6, 10))


def test_patch_merging_puts_the_corners_side_by_side() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        padded = functional.pad(image, [0, image.shape[3] % 2, 0, image.shape[2] % 2]).permute(0, 2, 3, 1)
        corners = [padded[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return linear(p, "reduction", layer_norm(p, "norm", torch.cat(corners, -1))).permute(0, 3, 1, 2)

    assert_agrees(PatchMerging(site(6), 4, (2, 2)), formula, torch.randn(2, 4, 5, 8))


def test_pctnet_adds_a_convolution_branch_and_a_swin_pair_without_a_shortcut() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        conv, pair = under(p, "layers.0.branches.0.layers.0.block.steps."), under(p, "layers.0.branches.1.layers.")
        y = image
        for first in (0, 3):
            y = batch_norm(conv, f"{first}", y)
            y = torch.where(y > 0, y, conv[f"{first + 1}.weight"][:, None, None] * y)
            y = conv2d(conv, f"{first + 2}", y)
        x = image.permute(0, 2, 3, 1)
        q = under(pair, "0.mixer.")
        tokens = linear(q, "qkv", layer_norm(pair, "0.norm", x)).flatten(1, 2)
        x = x + linear(q, "project", attend(tokens, 2, relative_bias(q["table"], (3, 4))).unflatten(1, [3, 4]))
        x = x + mlp(pair, "1.mixer", layer_norm(pair, "1.norm", x))
        return y + x.permute(0, 3, 1, 2)

    place = site(8, num_heads=2, window=(3, 4, 1), norm="batch")
    module = stage(place, (Parallel((("pre_activation",), ("window_attention", "mlp"))),))
    assert_agrees(module, formula, torch.randn(2, 8, 3, 4))


class Towers(nn.Module):
    """Two towers that hand out what they are given, so that only their joining is seen."""

    def __init__(self) -> None:
        super().__init__()

        class Tower(nn.Module):
            def __init__(self, scales: tuple[int, int]) -> None:
                super().__init__()
                self.scales = scales

            def forward(
                self, image: Tensor, condition: Tensor | None = None, valid: Tensor | None = None
            ) -> list[Tensor]:
                return list(image[:, self.scales[0] : self.scales[1]].split(8, 1))

        self.joined = DualEncoder(Tower((0, 16)), Tower((16, 24)), [8, 8], [8], 1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat(self.joined(image), 1)


def test_paratranscnn_joins_the_towers_by_a_channel_gate() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        both, q = image[:, 8:], under(p, "joined.gates.0.")
        gate = linear(q, "expand", torch.relu(linear(q, "reduce", both.mean((2, 3)))))
        return torch.cat([image[:, :8], both * torch.sigmoid(gate)[:, :, None, None]], 1)

    assert_agrees(Towers(), formula, torch.randn(2, 24, 3, 5))


def test_windows_over_the_whole_map_need_no_mask() -> None:
    """A 7 x 7 map and window of 7, FasterViT's last stage and GC ViT's: attention is over everything."""

    def formula(p: Weights, image: Tensor) -> Tensor:
        x = image.permute(0, 2, 3, 1)
        q = under(p, "layers.0.mixer.")
        tokens = linear(q, "qkv", layer_norm(p, "layers.0.norm", x)).flatten(1, 2)
        y = linear(q, "project", attend(tokens, 2, relative_bias(q["table"], (7, 7)))).unflatten(1, [7, 7])
        return (x + y).permute(0, 3, 1, 2)

    module = stage(site(8, num_heads=2, window=7), ("window_attention",))
    assert_agrees(module, formula, torch.randn(2, 8, 7, 7))


def test_plainmambas_stem_and_the_convolution_behind_its_first_layer() -> None:
    """Convolution of 7 and stride 2, one of 3, patches of half the stride; then GELU(norm(depthwise)) in place of the map."""

    def stem(p: Weights, image: Tensor) -> Tensor:
        x = torch.relu(instance_norm(p, "stem.1", conv2d(p, "stem.0", image, stride=2)))
        x = torch.relu(instance_norm(p, "stem.4", conv2d(p, "stem.3", x)))
        kernel = p["patches.convolution.weight"]
        x = x.unfold(2, 2, 2).unfold(3, 2, 2)
        x = torch.einsum("bcxyij,ocij->boxy", x, kernel) + p["patches.convolution.bias"][:, None, None]
        for axis in (2, 3):
            table = p[f"patches.position.tables.{axis - 2}"]
            assert table.shape[-1] == x.shape[axis]
            x = x + table.reshape(1, -1, *((table.shape[-1], 1) if axis == 2 else (1, table.shape[-1])))
        return x

    entry = StemPatchify(site(6), 3, (4, 4), width=4, convolutions=1, position=3)
    assert_agrees(entry, stem, torch.randn(2, 3, 12, 12))
    depthwise = lambda p, image: gelu(instance_norm(p, "norm", conv2d(p, "convolution", image, groups=6)))  # noqa: E731
    assert_agrees(Depthwise(site(6)), depthwise, torch.randn(2, 6, 5, 4))
    assert StemPatchify(site(6, dims=3), 1, (16, 16, 4))(torch.randn(1, 1, 32, 17, 8)).shape == (1, 6, 2, 2, 2)
