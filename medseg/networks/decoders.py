"""Decoders: from the encoder's features, finest first, to one map per level but the lowest, finest first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import List

import torch
from torch import Tensor, nn
from torch.nn import functional

from .contract import Site
from .convolutions.mednext import MedNeXt, MedNeXtUp
from .convolutions.plain import BasicResidual, ConvNormAct, ResidualConv
from .convolutions.unetr import UnetrBlock
from .layers.common import TRANSPOSED, convolution, crop_like, image_norm, resize


class UpBlock(nn.Module):
    """Transposed convolution to the finer grid, concatenation or sum with the skip, then convolutions."""

    def __init__(self, site: Site, channels_below: int, channels_skip: int, stride: tuple[int, ...], *,
                 num_blocks: int = 1, join: str = "concatenate", block: str = "plain") -> None:  # fmt: skip
        super().__init__()
        self.up: nn.Module = TRANSPOSED[site.spatial_dims](channels_below, site.width, stride, stride)
        self.join_by_sum = join == "sum"
        self.match: nn.Module = nn.Identity()
        if self.join_by_sum and channels_skip != site.width:
            self.match = ConvNormAct(site, channels_skip, site.width, kernel=1, act=False)
        channels = site.width if self.join_by_sum else site.width + channels_skip
        blocks: list[nn.Module] = []
        for index in range(num_blocks):
            channels_in = channels if index == 0 else site.width
            if block == "residual":
                blocks.append(ResidualConv(site, channels_in=channels_in))
            else:
                blocks.append(ConvNormAct(site, channels_in, site.width))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        up = crop_like(self.up(below), skip)
        if self.join_by_sum:
            return self.blocks(up + self.match(skip))
        return self.blocks(torch.cat([up, skip], dim=1))


class UNetDecoder(nn.Module):
    """nnU-Net's decoder: one up-block per level.

    Args:
        sites: one per level, finest first; the lowest is not decoded.
        channels: of the encoder's features, finest first.
        strides: of the levels, finest first; entry i leads from level i - 1 to level i.
        num_blocks: convolutions per level; one number or one per level.
        join: `concatenate` or `sum`.
        block: `plain` or `residual`.
        bodies: what runs behind the convolutions, one per level but the lowest, finest first; None is nothing.
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 num_blocks: int | Sequence[int] = 1, join: str = "concatenate", block: str = "plain",
                 bodies: Sequence[nn.Module] | None = None) -> None:  # fmt: skip
        super().__init__()
        depth = len(channels) - 1
        counts = [num_blocks] * depth if isinstance(num_blocks, int) else list(num_blocks)
        self.channels = [site.width for site in sites[:depth]]
        below = [*self.channels[1:], channels[-1]]
        self.ups = nn.ModuleList(
            UpBlock(sites[i], below[i], channels[i], strides[i + 1], num_blocks=counts[i], join=join, block=block)
            for i in reversed(range(depth))
        )
        self.bodies = nn.ModuleList(reversed(bodies or [nn.Identity() for _ in range(depth)]))

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        x = features[-1]
        decoded: List[Tensor] = []
        index = len(features) - 2
        for up, body in zip(self.ups, self.bodies):  # noqa: B905 - TorchScript knows no strict=
            x = body(up(x, features[index]))
            decoded.insert(0, x)
            index -= 1
        return decoded


class LightDecoder(nn.Module):
    """Every feature goes through a 1x1 convolution to one width, is resized up and added; one 3x3x3 convolution per scale.

    Args:
        sites, channels, strides: as in `UNetDecoder`.
        width: of all decoded maps; that of the finest level if None.
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 width: int | None = None) -> None:  # fmt: skip
        super().__init__()
        width = sites[0].width if width is None else width
        depth = len(channels) - 1
        self.channels = [width] * depth
        self.lateral = nn.ModuleList(convolution(sites[0].spatial_dims, c, width, 1) for c in reversed(channels))
        self.smooth = nn.ModuleList(ConvNormAct(sites[i], width, width) for i in reversed(range(depth)))

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        count = len(features)
        lateral: List[Tensor] = []
        for index, match in enumerate(self.lateral):
            lateral.append(match(features[count - 1 - index]))
        x = lateral[0]
        decoded: List[Tensor] = []
        for index, smooth in enumerate(self.smooth):
            fine = lateral[index + 1]
            x = smooth(fine + resize(x, list(fine.shape[2:])))
            decoded.insert(0, x)
        return decoded


class UnetrDecoder(nn.Module):
    """The UNETR family's decoder: a residual block on each skip, transposed convolution, concatenation, residual block.

    Args:
        sites, channels, strides: as in `UNetDecoder`.
        widths: of the skips after their block, one per level; None is the feature's own width.
        blocks: whether a level's skip has a residual block, one per level; None is everywhere.
        finish: a last residual block at full resolution (SegMamba).

    Source: Hatamizadeh et al. 2022 (UNETR, Swin UNETR); MONAI's blocks, whose instance norm has no gain.
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 widths: Sequence[int] | None = None, blocks: Sequence[bool] | None = None,
                 finish: bool = False) -> None:  # fmt: skip
        super().__init__()
        depth = len(channels) - 1
        widths = list(channels) if widths is None else list(widths)
        blocks = [True] * len(channels) if blocks is None else list(blocks)
        sites = [replace(site, width=width, drop_path=0.0) for site, width in zip(sites, widths, strict=True)]
        self.skips = nn.ModuleList(
            UnetrBlock(site, c) if has_block else nn.Identity()
            for site, c, has_block in zip(sites, channels, blocks, strict=True)
        )
        self.ups = nn.ModuleList(UnetrUp(sites[i], widths[i + 1], strides[i + 1]) for i in reversed(range(depth)))
        self.finish: nn.Module = UnetrBlock(sites[0], widths[0]) if finish else nn.Identity()
        self.channels = widths[:depth]

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        skips: List[Tensor] = []
        for index, block in enumerate(self.skips):
            skips.append(block(features[index]))
        x = skips[len(skips) - 1]
        decoded: List[Tensor] = []
        for index, up in enumerate(self.ups):
            x = up(x, skips[len(skips) - 2 - index])
            if index == len(skips) - 2:
                x = self.finish(x)
            decoded.insert(0, x)
        return decoded


class UnetrUp(nn.Module):
    """Transposed convolution without bias, concatenation [up, skip], residual block."""

    def __init__(self, site: Site, channels_below: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.up = TRANSPOSED[site.spatial_dims](channels_below, site.width, stride, stride, bias=False)
        self.block = UnetrBlock(site, 2 * site.width)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return self.block(crop_like(self.up(below), skip), skip)


class MedNeXtDecoder(nn.Module):
    """MedNeXt's way up: up-block, sum with the skip, blocks.

    Args:
        sites, channels, strides: as in `UNetDecoder`.
        num_blocks, ratios: per level but the lowest, finest first.
        kernel: of the depthwise convolutions.
        grn: response norm in every block (version 2).
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 num_blocks: Sequence[int], ratios: Sequence[int], kernel: int = 3,
                 grn: bool = False) -> None:  # fmt: skip
        super().__init__()
        order = list(reversed(range(len(channels) - 1)))
        self.channels = list(channels[:-1])
        self.ups = nn.ModuleList(
            MedNeXtUp(sites[i], channels[i + 1], strides[i + 1], kernel=kernel, ratio=ratios[i], grn=grn) for i in order
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(MedNeXt(sites[i], kernel=kernel, ratio=ratios[i], grn=grn) for _ in range(num_blocks[i])))
            for i in order
        )

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        x = features[len(features) - 1]
        decoded: List[Tensor] = []
        index = len(features) - 2
        for up, blocks in zip(self.ups, self.blocks):  # noqa: B905 - TorchScript knows no strict=
            x = blocks(crop_like(up(x), features[index]) + features[index])
            decoded.insert(0, x)
            index -= 1
        return decoded


class NearestUp(nn.Module):
    """1x1 convolution, every voxel repeated, concatenation [up, skip], residual blocks (U-Mamba, xLSTM-UNet)."""

    def __init__(
        self, site: Site, channels_below: int, channels_skip: int, stride: tuple[int, ...], count: int
    ) -> None:
        super().__init__()
        self.match = convolution(site.spatial_dims, channels_below, site.width, 1)
        first = BasicResidual(site, site.width + channels_skip)
        self.blocks = nn.Sequential(first, *(ResidualConv(site) for _ in range(count - 1)))
        self.stride: List[float] = [float(s) for s in stride]

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(self.match(below), scale_factor=self.stride, mode="nearest")
        return self.blocks(torch.cat([crop_like(up, skip), skip], dim=1))


class NearestDecoder(nn.Module):
    """U-Mamba's way up.

    Args:
        sites, channels, strides: as in `UNetDecoder`.
        num_blocks: per level but the lowest, finest first.
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 num_blocks: Sequence[int]) -> None:  # fmt: skip
        super().__init__()
        depth = len(channels) - 1
        self.channels = [site.width for site in sites[:depth]]
        below = [*self.channels[1:], channels[-1]]
        self.ups = nn.ModuleList(
            NearestUp(sites[i], below[i], channels[i], strides[i + 1], num_blocks[i]) for i in reversed(range(depth))
        )

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        x = features[-1]
        decoded: List[Tensor] = []
        for index, up in enumerate(self.ups):
            x = up(x, features[len(features) - 2 - index])
            decoded.insert(0, x)
        return decoded


class PreNormUp(nn.Module):
    """Norm, PReLU, transposed convolution; concatenation [skip, up]; norm, PReLU, convolution (PCT-Net)."""

    def __init__(self, site: Site, channels_below: int, channels_skip: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        dims, both = site.spatial_dims, channels_skip + site.width
        self.up_norm, self.up_act = image_norm(site.norm, dims, channels_below), nn.PReLU()
        self.up: nn.Module = TRANSPOSED[dims](channels_below, site.width, stride, stride)
        self.norm, self.act = image_norm(site.norm, dims, both), nn.PReLU()
        self.convolution = convolution(dims, both, site.width, site.kernel_size)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        up = crop_like(self.up(self.up_act(self.up_norm(below))), skip)
        return self.convolution(self.act(self.norm(torch.cat([skip, up], dim=1))))


class PreNormDecoder(nn.Module):
    """PCT-Net's way up: a step, a body, and before every head a norm and PReLU.

    Args:
        sites, channels, strides: as in `UNetDecoder`.
        bodies: what runs behind each step, one per level but the lowest, finest first.
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 bodies: Sequence[nn.Module]) -> None:  # fmt: skip
        super().__init__()
        order = list(reversed(range(len(channels) - 1)))
        self.channels = [site.width for site in sites[: len(order)]]
        below = [*self.channels[1:], channels[-1]]
        self.ups = nn.ModuleList(PreNormUp(sites[i], below[i], channels[i], strides[i + 1]) for i in order)
        self.bodies = nn.ModuleList(reversed(bodies))
        self.finish = nn.ModuleList(
            nn.Sequential(image_norm(sites[i].norm, sites[i].spatial_dims, sites[i].width), nn.PReLU()) for i in order
        )

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        x = features[-1]
        decoded: List[Tensor] = []
        index = len(features) - 2
        for up, body, finish in zip(self.ups, self.bodies, self.finish):  # noqa: B905 - TorchScript knows no strict=
            x = body(up(x, features[index]))
            decoded.insert(0, finish(x))
            index -= 1
        return decoded


DECODERS: dict[str, type[nn.Module]] = {
    "unet": UNetDecoder,
    "unetr": UnetrDecoder,
    "light": LightDecoder,
    "mednext": MedNeXtDecoder,
    "nearest": NearestDecoder,
    "pre_norm": PreNormDecoder,
}
