"""Decoders: from the encoder's features, finest first, to one map per level but the lowest, finest first."""

from collections.abc import Sequence
from typing import List

import torch
from torch import Tensor, nn

from medseg.networks.blocks import ConvNormAct, ResidualConv
from medseg.networks.context import Site
from medseg.networks.layers import TRANSPOSED, crop_like


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
    """

    def __init__(self, sites: Sequence[Site], channels: Sequence[int], strides: Sequence[tuple[int, ...]], *,
                 num_blocks: int | Sequence[int] = 1, join: str = "concatenate", block: str = "plain") -> None:  # fmt: skip
        super().__init__()
        depth = len(channels) - 1
        counts = [num_blocks] * depth if isinstance(num_blocks, int) else list(num_blocks)
        self.channels = [site.width for site in sites[:depth]]
        below = [*self.channels[1:], channels[-1]]
        self.ups = nn.ModuleList(
            UpBlock(sites[i], below[i], channels[i], strides[i + 1], num_blocks=counts[i], join=join, block=block)
            for i in reversed(range(depth))
        )

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        x = features[-1]
        decoded: List[Tensor] = []
        for index, up in enumerate(self.ups):
            x = up(x, features[len(features) - 2 - index])
            decoded.insert(0, x)
        return decoded


DECODERS: dict[str, type[nn.Module]] = {"unet": UNetDecoder}
