"""The segmentation network, as one reads the figure: encoder levels going down, decoder going up, one head per scale."""

import math
from typing import Final, List

import torch
from torch import Tensor, nn

from medseg.networks.layers import CONVOLUTION


class EncoderLevel(nn.Module):
    """One resolution: the entry leads here, the body works here, the skip goes to the decoder."""

    from_image: Final[bool]
    tap_entry: Final[bool]

    def __init__(
        self, entry: nn.Module, body: nn.Module, skip: nn.Module, *, from_image: bool, tap_entry: bool
    ) -> None:
        super().__init__()
        self.entry, self.body, self.skip = entry, body, skip
        self.from_image, self.tap_entry = from_image, tap_entry


class Encoder(nn.Module):
    """Levels from fine to coarse; returns what each hands to the decoder, finest first."""

    def __init__(self, levels: List[EncoderLevel]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> List[Tensor]:
        features: List[Tensor] = []
        x = image
        for level in self.levels:  # TorchScript unrolls this loop; each level keeps its own types
            entered = level.entry(image if level.from_image else x)  # type: ignore[operator]
            x = level.body(entered)  # type: ignore[operator]
            features.append(level.skip(entered if level.tap_entry else x))  # type: ignore[operator]
        return features


class SegmentationNetwork(nn.Module):
    """Image (B, C, X, Y[, Z]) in, logits (B, K, X, Y[, Z]) on the same grid out.

    Any grid is accepted: odd sizes are rounded up on the way down and cropped on the way up.

    Args:
        encoder: features per level, finest (full resolution) first.
        decoder: decoded maps per level but the lowest, finest first; `decoder.channels` names their widths.
        out_channels: K.
        strides: per level, voxels of the level above per voxel, per axis.
        deep_supervision: also make the heads of the coarser scales.

    Attributes:
        strides: list of per-axis tuples, one per level, the first all ones.
        divisor: their product, per axis: sizes that are multiples of it waste nothing.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, *, out_channels: int, strides: List[tuple[int, ...]],
                 deep_supervision: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        make = CONVOLUTION[len(strides[0])]
        finest, *coarser = decoder.channels  # type: ignore[misc]
        self.head = make(finest, out_channels, 1)
        self.coarse_heads = nn.ModuleList(make(width, out_channels, 1) for width in coarser if deep_supervision)
        self.strides = strides
        self.divisor = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(image))[0])

    @torch.jit.unused
    def forward_scales(self, image: Tensor) -> List[Tensor]:
        """Logits at every decoded scale, finest first, for deep supervision."""
        decoded = self.decoder(self.encoder(image))
        coarse = [head(x) for head, x in zip(self.coarse_heads, decoded[1:], strict=False)]
        return [self.head(decoded[0]), *coarse]
