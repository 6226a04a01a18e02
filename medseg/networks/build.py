"""From a preset's name to a network: `build_network`, what bundles name in their configuration."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from medseg.errors import ConfigError, nearest
from medseg.networks.blocks import HybridConv, PlainConv, ResidualConv
from medseg.networks.context import Site
from medseg.networks.decoders import DECODERS
from medseg.networks.entries import ENTRIES
from medseg.networks.layers import ImageLayerNorm, per_axis
from medseg.networks.mixers import CHANNEL_MIXERS, MIXERS
from medseg.networks.network import Encoder, EncoderLevel, SegmentationNetwork
from medseg.networks.presets import PRESETS
from medseg.networks.specs import Level, NetworkSpec
from medseg.networks.stages import ConvStage, OnImage, Residual, TokenStage, Unchanged

CONVOLUTIONS: dict[str, type[nn.Module]] = {"residual": ResidualConv, "plain": PlainConv, "hybrid_conv": HybridConv}

SKIPS: dict[str, Callable[[Site], nn.Module]] = {
    "none": lambda site: nn.Identity(),
    "layer_norm": lambda site: ImageLayerNorm(site.width, eps=1e-6),
}


def build_network(
    preset: str,
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    size: str = "nano",
    mixer: str | None = None,
    strides: Sequence[int | Sequence[int]] | None = None,
    roi_size: Sequence[int] | None = None,
    deep_supervision: bool = True,
    checkpointing: bool = False,
) -> SegmentationNetwork:
    """Build a segmentation network from a preset."""
    if preset not in PRESETS:
        raise ConfigError(f"preset: found {preset!r}. {nearest(preset, PRESETS)}")
    if size not in PRESETS[preset].sizes:
        raise ConfigError(f"size of {preset}: found {size!r}, expected one of {', '.join(PRESETS[preset].sizes)}")
    if mixer is not None and mixer not in MIXERS:
        raise ConfigError(f"mixer: found {mixer!r}. {nearest(mixer, MIXERS)}")
    spec = PRESETS[preset].build(size, spatial_dims)
    steps = resolve_strides(spec, spatial_dims, strides, roi_size)
    kernels = kernel_sizes(steps)
    sites = [level_site(spec, level, spatial_dims, kernel) for level, kernel in zip(spec.levels, kernels, strict=True)]
    levels, channels = [], in_channels
    for level, site, step in zip(spec.levels, sites, steps, strict=True):
        entry = ENTRIES[level.entry](site, in_channels if level.from_image else channels, step)
        body = build_stage(level, site, mixer, checkpointing)
        skip = SKIPS[level.skip](site)
        levels.append(EncoderLevel(entry, body, skip, from_image=level.from_image, tap_entry=level.tap == "entry"))
        channels = level.width
    decoder = DECODERS[spec.decoder](sites, [level.width for level in spec.levels], steps, **spec.decoder_options)
    return SegmentationNetwork(
        Encoder(levels), decoder, out_channels=out_channels, strides=steps, deep_supervision=deep_supervision
    )


def level_site(spec: NetworkSpec, level: Level, spatial_dims: int, kernel: tuple[int, ...]) -> Site:
    """What the sub-layers of a level know about it."""
    window: tuple[int, int, int] | None = None
    if level.window_size is not None:
        x, y, z = (*per_axis(level.window_size, spatial_dims, "window_size"), 1)[:3]
        window = (x, y, z)
    return Site(
        width=level.width, num_heads=level.num_heads, window_size=window, spatial_dims=spatial_dims, kernel_size=kernel,
        norm=spec.norm, activation=spec.activation, token_norm=spec.token_norm, token_norm_eps=spec.token_norm_eps,
        layer_scale=spec.layer_scale,
    )  # fmt: skip


def build_stage(level: Level, site: Site, mixer: str | None, checkpointing: bool) -> nn.Module:
    """The sub-layers of a level as a stage."""
    names = [layer for layer in level.layers if isinstance(layer, str)]
    if all(name in CONVOLUTIONS for name in names):
        return ConvStage(
            [CONVOLUTIONS[name](site, **level.options.get(name, {})) for name in names], checkpointing=checkpointing
        )
    layers: list[nn.Module] = []
    for name in names:
        if name in CONVOLUTIONS:
            layers.append(OnImage(site, CONVOLUTIONS[name](site, **level.options.get(name, {}))))
            continue
        if name in MIXERS and mixer is not None:
            name = mixer
        if name == "identity":
            layers.append(Unchanged())
            continue
        kind = MIXERS.get(name) or CHANNEL_MIXERS[name]
        layers.append(Residual(site, kind(site, **level.options.get(name, {}))))
    return TokenStage(site, layers, [], checkpointing=checkpointing)


def resolve_strides(
    spec: NetworkSpec,
    spatial_dims: int,
    strides: Sequence[int | Sequence[int]] | None,
    roi_size: Sequence[int] | None,
) -> list[tuple[int, ...]]:
    """Strides per level and axis: those given, else the preset's; an axis of `roi_size` is halved while 8 voxels are left."""
    steps = [per_axis(level.stride, spatial_dims, "stride") for level in spec.levels]
    if strides is not None:
        if len(strides) != len(steps):
            raise ConfigError(f"strides: found {len(strides)} levels, expected {len(steps)} for this preset")
        return [per_axis(stride, spatial_dims, "strides") for stride in strides]
    if roi_size is not None:
        left = list(roi_size)
        for index, step in enumerate(steps):
            steps[index] = tuple(s if left[a] >= 4 * s else 1 for a, s in enumerate(step))
            left = [n // s for n, s in zip(left, steps[index], strict=True)]
    return steps


def kernel_sizes(steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Kernel 3, but 1 on an axis while it is coarser than the others: until the level at which it is first halved."""
    kernels = []
    for index in range(len(steps)):
        following = steps[index + 1] if index + 1 < len(steps) else (2,) * len(steps[0])
        past = [math.prod(step[axis] for step in steps[: index + 1]) for axis in range(len(steps[0]))]
        halved_later = max(following) > 1
        kernels.append(
            tuple(1 if past[a] == 1 and following[a] == 1 and halved_later else 3 for a in range(len(steps[0])))
        )
    return kernels


def no_weight_decay(network: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone: biases, gains, decay rates, states, tables."""
    return {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim <= 1 or getattr(parameter, "no_weight_decay", False)
    }
