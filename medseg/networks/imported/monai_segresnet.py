"""MONAI's SegResNetDS under its own parameter names, so that trained weights load as they are.

Residual blocks of norm, ReLU, convolution; strided convolutions down, transposed ones up, sums with the skips. Isotropic
strides only; anything else is refused by name.

Source: Myronenko 2018 (3D MRI brain tumor segmentation using autoencoder regularization); MONAI 1.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medseg.errors import ConfigError

from ..layers.common import BATCH_NORM, TRANSPOSED, convolution, crop_like
from .fitting import fit, plain_state
from .tables import Converted

SOURCE = "MONAI's SegResNetDS"
NORMS = ("batch", "instance", "group")
GROUPS = 8


def _norm(kind: str, spatial_dims: int, channels: int) -> nn.Module:
    if kind == "batch":
        return BATCH_NORM[spatial_dims](channels)
    return nn.GroupNorm(channels if kind == "instance" else GROUPS, channels)


class Block(nn.Module):
    """x + conv(ReLU(norm(conv(ReLU(norm(x))))))."""

    def __init__(self, spatial_dims: int, width: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(norm, spatial_dims, width), _norm(norm, spatial_dims, width)
        self.conv1 = convolution(spatial_dims, width, width, bias=False)
        self.conv2 = convolution(spatial_dims, width, width, bias=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm2(self.conv1(self.act(self.norm1(x))))))


class Down(nn.Module):
    """Blocks of one resolution, and the step to the next."""

    def __init__(self, spatial_dims: int, width: int, count: int, norm: str, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(spatial_dims, width, norm) for _ in range(count)))
        self.downsample = nn.Identity() if last else convolution(spatial_dims, width, 2 * width, 3, 2, bias=False)


class Encoder(nn.Module):
    """Image -> features of every resolution, finest first."""

    def __init__(self, spatial_dims: int, channels_in: int, width: int, counts: Sequence[int], norm: str) -> None:
        super().__init__()
        self.conv_init = convolution(spatial_dims, channels_in, width, bias=False)
        self.layers = nn.ModuleList(
            Down(spatial_dims, width * 2**i, count, norm, last=i == len(counts) - 1) for i, count in enumerate(counts)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = self.conv_init(image), []
        for level in self.layers:
            x = level.blocks(x)  # type: ignore[operator]
            features.append(x)
            x = level.downsample(x)  # type: ignore[operator]
        return features


class Up(nn.Module):
    """Step to the finer resolution, sum with its features, blocks, and a head where there is one."""

    def __init__(self, spatial_dims: int, width: int, count: int, norm: str, classes: int) -> None:
        super().__init__()
        self.upsample = nn.Module()
        self.upsample.deconv = TRANSPOSED[spatial_dims](2 * width, width, 3, 2, 1, output_padding=1, bias=False)
        self.blocks = nn.Sequential(*(Block(spatial_dims, width, norm) for _ in range(count)))
        self.head = convolution(spatial_dims, width, classes, 1) if classes else nn.Identity()

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(crop_like(self.upsample.deconv(below), skip) + skip)  # type: ignore[operator]


class SegResNetDS(nn.Module):
    """(B, C, X, Y[, Z]) -> (B, K, X, Y[, Z]) logits; any size is accepted, multiples of the strides give MONAI's numbers."""

    def __init__(self, encoder: Encoder, ups: Sequence[Up], depth: int) -> None:
        super().__init__()
        self.encoder, self.up_layers, self.depth = encoder, nn.ModuleList(ups), depth
        self.configuration: dict[str, Any] = {}

    def forward(self, image: Tensor) -> Tensor:
        return self.forward_scales(image)[0]

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits of the scales that have a head, finest first."""
        *skips, x = self.encoder(image)
        logits = []
        for index, (up, skip) in enumerate(zip(self.up_layers, reversed(skips), strict=True)):
            x = up(x, skip)
            if len(self.up_layers) - index <= self.depth:
                logits.append(up.head(x))  # type: ignore[operator]
        return logits[::-1]


def build_segresnet_ds(
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    *,
    init_filters: int = 32,
    norm: str = "batch",
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] | None = None,
    dsdepth: int = 1,
) -> SegResNetDS:
    """MONAI's network of the same arguments.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: image channels and classes.
        init_filters: width at full resolution.
        norm: `batch`, `instance` or `group` (of 8).
        blocks_down, blocks_up: per resolution; going up one each if None.
        dsdepth: scales with a head.

    Raises:
        ConfigError: an argument that MONAI's network does not have.
    """
    ups = [1] * (len(blocks_down) - 1) if blocks_up is None else list(blocks_up)
    if norm not in NORMS or spatial_dims not in (2, 3):
        raise ConfigError(
            f"{SOURCE}: found norm {norm!r}, {spatial_dims} dimensions; expected {', '.join(NORMS)}, 2 or 3"
        )
    if len(blocks_down) < 2 or len(ups) != len(blocks_down) - 1 or not 1 <= dsdepth <= len(ups):
        raise ConfigError(
            f"{SOURCE}: found blocks {list(blocks_down)} down, {ups} up, {dsdepth} heads; expected one resolution fewer up "
            "than down, and a head on at least one of them"
        )
    encoder = Encoder(spatial_dims, in_channels, init_filters, blocks_down, norm)
    levels = [
        Up(spatial_dims, init_filters * 2**level, count, norm, out_channels if level < dsdepth else 0)
        for level, count in zip(reversed(range(len(ups))), ups, strict=True)
    ]
    network = SegResNetDS(encoder, levels, dsdepth)
    network.configuration = {
        "spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels,
        "init_filters": init_filters, "norm": norm, "blocks_down": list(blocks_down), "blocks_up": ups, "dsdepth": dsdepth,
    }  # fmt: skip
    return network


def load_monai_segresnet_ds(
    state: Mapping[str, Any], *, norm: str | None = None, partial: tuple[str, ...] = ()
) -> SegResNetDS:
    """A network with MONAI's weights; its `configuration` builds it again through `build_segresnet_ds`.

    Args:
        state: of `SegResNetDS(...)` of MONAI 1.6 with ReLU, `deconv` and no `resolution`.
        norm: `instance` or `group`, which leave the same trace in the weights; batch norm is recognised.
        partial: beginnings of names that may stay as made where they do not fit.

    Raises:
        ConfigError: entries that do not fit, or a norm that cannot be told from the weights.
    """
    plain = plain_state(state, SOURCE)
    network = build_segresnet_ds(**_arguments(plain, norm))
    fit(network, Converted(plain, {name: name for name in plain}, []), source=SOURCE, partial=partial)
    return network


def _arguments(state: Mapping[str, Tensor], norm: str | None) -> dict[str, Any]:
    first = state.get("encoder.conv_init.weight")
    downs, ups = _indices(state, "encoder.layers."), _indices(state, "up_layers.")
    heads = [number for number in range(ups) if f"up_layers.{number}.head.weight" in state]
    if first is None or not heads:
        missing = "encoder.conv_init.weight" if first is None else f"up_layers.{max(ups - 1, 0)}.head.weight"
        raise ConfigError(f"{SOURCE}: {missing!r} is missing, which tells the size; expected SegResNetDS's state dict")
    batch = any(name.endswith("running_mean") for name in state)
    if batch and norm in (None, "batch"):
        norm = "batch"
    elif batch or norm not in ("instance", "group"):
        found = "running means of batch norm" if batch else "no running means"
        raise ConfigError(
            f"{SOURCE}: found norm {norm!r} and {found}; expected norm='instance' or 'group' for these alone"
        )
    return {
        "spatial_dims": first.ndim - 2, "in_channels": first.shape[1],
        "out_channels": state[f"up_layers.{heads[-1]}.head.weight"].shape[0], "init_filters": first.shape[0], "norm": norm,
        "blocks_down": [_indices(state, f"encoder.layers.{i}.blocks.") for i in range(downs)],
        "blocks_up": [_indices(state, f"up_layers.{i}.blocks.") for i in range(ups)], "dsdepth": len(heads),
    }  # fmt: skip


def _indices(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})
