"""The segmentation network, as one reads the figure: encoder levels going down, decoder going up, one head per scale."""

import math
from typing import Any, Dict, Final, List, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

from .convolutions.gated import SqueezeExcite
from .layers.common import CONVOLUTION


class EncoderLevel(nn.Module):
    """One resolution: the entry leads here, the body works here, the skip goes to the decoder."""

    from_image: Final[bool]
    tap_entry: Final[bool]

    def __init__(self, entry: nn.Module, body: nn.Module, skip: nn.Module, *, step: tuple[int, ...], from_image: bool,
                 tap_entry: bool) -> None:  # fmt: skip
        super().__init__()
        self.step: List[int] = list(step)  # voxels of what the entry reads per voxel here
        self.entry, self.body, self.skip = entry, body, skip
        self.from_image, self.tap_entry = from_image, tap_entry


def shrink(valid: Optional[Tensor], step: List[int]) -> Optional[Tensor]:
    """(B, 1, X, Y[, Z]) booleans on a grid that is `step` times coarser: a voxel is real where any of its part is."""
    if valid is None or max(step) == 1:
        return valid
    if valid.dim() == 4:
        return functional.max_pool2d(valid.float(), step, step, ceil_mode=True) > 0.5
    return functional.max_pool3d(valid.float(), step, step, ceil_mode=True) > 0.5


class Encoder(nn.Module):
    """Levels from fine to coarse; returns what each hands to the decoder, finest first."""

    def __init__(self, levels: List[EncoderLevel]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(
        self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None
    ) -> List[Tensor]:
        features: List[Tensor] = []
        if valid is not None:
            image = image.masked_fill(~valid, 0.0)
        x, real = image, valid
        for level in self.levels:  # TorchScript unrolls this loop; each level keeps its own types
            entered = level.entry(image if level.from_image else x)  # type: ignore[operator]
            if valid is not None:
                real = shrink(valid if level.from_image else real, level.step)  # type: ignore[arg-type]
            x = level.body(entered, condition, real)  # type: ignore[operator]
            features.append(level.skip(entered if level.tap_entry else x))  # type: ignore[operator]
        return features


class DualEncoder(nn.Module):
    """Two towers over the same image; where both have a scale, their features are joined and gated by channel.

    Args:
        first: the tower with every scale.
        second: the tower whose first level is on the scale `offset` of the first tower.
        channels: of both towers' features, finest first.
        offset: see above.

    Source: Sun et al. 2024 (ParaTransCNN): concatenation, then squeeze-and-excitation with a reduction of 16.
    """

    offset: Final[int]

    def __init__(
        self, first: nn.Module, second: nn.Module, channels: List[int], joined: List[int], offset: int
    ) -> None:
        super().__init__()
        self.first, self.second, self.offset = first, second, offset
        widths = [a + b for a, b in zip(channels[offset:], joined, strict=True)]
        self.gates = nn.ModuleList(SqueezeExcite(width, max(width // 16, 1), act="relu") for width in widths)
        self.channels = [*channels[:offset], *widths]

    def forward(
        self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None
    ) -> List[Tensor]:
        features: List[Tensor] = self.first(image, condition, valid)
        others: List[Tensor] = self.second(image, condition, valid)
        joined: List[Tensor] = features[: self.offset]
        for index, gate in enumerate(self.gates):
            join = torch.cat([features[self.offset + index], others[index]], dim=1)
            joined.append(gate(join))
        return joined


class SiteEncoders(nn.Module):
    """One encoder per site, each over its own image channels; per level the features of the sites that send it are joined.

    Args:
        encoders: site -> encoder, in the order of the image's channels.
        channels: per site, image channels.
        sent: per site, the levels that reach the decoder.
        levels: of each encoder.

    Source: the idea of Split-U-Net (arXiv 2208.10553): concatenation per level at the site with the labels.
    """

    levels: Final[int]

    def __init__(self, encoders: Dict[str, nn.Module], channels: List[int], sent: List[List[int]], levels: int) -> None:
        super().__init__()
        self.sites = nn.ModuleDict(encoders)
        self.channels, self.sent, self.levels = channels, sent, levels

    def forward(
        self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None
    ) -> List[Tensor]:
        found: List[List[Tensor]] = []
        first = 0
        for index, encoder in enumerate(self.sites.values()):
            own = image[:, first : first + self.channels[index]]
            first += self.channels[index]
            found.append(encoder(own, condition, valid))
        return self.join(found)

    def join(self, found: List[List[Tensor]]) -> List[Tensor]:
        """Features per site and level -> joined features per level; what a site does not send is not looked at."""
        joined: List[Tensor] = []
        for level in range(self.levels):
            parts: List[Tensor] = []
            for index, features in enumerate(found):
                if level in self.sent[index]:
                    parts.append(features[level])
            joined.append(torch.cat(parts, dim=1))
        return joined


class SegmentationNetwork(nn.Module):
    """Image (B, C, X, Y[, Z]) in, logits (B, K, X, Y[, Z]) on the same grid out.

    Any grid is accepted: odd sizes are rounded up on the way down and cropped on the way up. Volumes of different sizes can
    share a batch: `valid` (B, 1, X, Y[, Z]) is False on the voxels that only fill up the grid. Whatever they hold changes no
    logit; mixers leave them out. The statistics of instance norms count them as zeros.

    Args:
        encoder: features per level, finest (full resolution) first.
        decoder: decoded maps per level but the lowest, finest first; `decoder.channels` names their widths.
        out_channels: K.
        strides: per level, voxels of the level above per voxel, per axis.
        deep_supervision: also make the heads of the coarser scales.

    Attributes:
        strides: list of per-axis tuples, one per level, the first all ones.
        divisor: their product, per axis: sizes that are multiples of it waste nothing.
        configuration: the arguments of `build_network` that build the same network again.
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
        self.configuration: Dict[str, Any] = {}
        self.divisor = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def forward(self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None) -> Tensor:
        return self.head(self.decoder(self.encoder(image, condition, valid))[0])

    @torch.jit.unused
    def forward_scales(
        self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None
    ) -> List[Tensor]:
        """Logits at every decoded scale, finest first, for deep supervision."""
        return self.decode_scales(self.encoder(image, condition, valid))

    @torch.jit.unused
    def decode_scales(self, features: List[Tensor]) -> List[Tensor]:
        """As `forward_scales`, from the encoder's features."""
        decoded = self.decoder(features)
        coarse = [head(x) for head, x in zip(self.coarse_heads, decoded[1:], strict=False)]
        return [self.head(decoded[0]), *coarse]
