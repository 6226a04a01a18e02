"""From a preset's name to a network: `build_network`, the target that bundles name in their configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from medseg.errors import ConfigError, nearest
from medseg.own_parts import Parts

from .build_stage import StageBuilder, count_branches, flat_names, made
from .contract import Site
from .decoders import DECODERS
from .layers.common import per_axis
from .mixers import MIXERS
from .network import DualEncoder, Encoder, EncoderLevel, SegmentationNetwork
from .presets import PRESETS, Preset
from .published import settle
from .recipe import Layer, Level, NetworkSpec
from .skips import SKIPS
from .steps_down import ENTRIES
from .strides import kernel_sizes, resolve_strides


def build_network(
    preset: str | None = None,
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    size: str | None = None,
    mixer: str | None = None,
    strides: Sequence[int | Sequence[int]] | None = None,
    roi_size: Sequence[int] | None = None,
    deep_supervision: bool = True,
    *,
    published: str | None = None,
    padding: str | None = None,
    norm: str | None = None,
    condition_width: int = 0,
    checkpointing: bool = False,
    project: str | None = None,
    **options: object,
) -> SegmentationNetwork:
    """A segmentation network by the name of its preset.

    Args:
        preset: name in `PRESETS`.
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: classes, background included.
        size: `nano` (None), or a published size of the preset.
        mixer: name in `MIXERS` that takes the place of every token mixer; `identity` is the ablation.
        strides: per level, per axis; the preset's if None (and nothing else is known).
        roi_size: training patch; without `strides`, axes that are too short for the preset's strides are not halved.
        deep_supervision: make a head for every decoded scale.
        published: name in `PUBLISHED`, such as `mambavision_t`: sets preset, size, padding, norm and what else published
            weights were trained with; nothing that it sets may be given another value.
        padding: `masked` (None; tokens beyond the grid do not exist) or `published` (zeros take part in windows).
        norm: `instance`, `instance_plain` (no gain) or `batch` for the convolutions, the preset's if None.
        condition_width: channels of a conditioning vector, for `time_attention`.
        checkpointing: recompute sub-layers in the backward pass, for less memory.
        project: package of the user's own parts, see `medseg.own_parts`.
        options: any field of `NetworkSpec` to replace (decoder, drop_path, layer_scale, layer_options ...).

    Returns:
        A module with `forward(image) -> logits` and `forward_scales(image) -> list of logits`, finest first; its
        `configuration` holds the arguments that build the same network again.

    Raises:
        ConfigError: an unknown name, or sizes that do not fit together; found and expected are named.

    Example:
        >>> build_network("mambavision", spatial_dims=2).divisor
        (16, 16)
    """
    words = {
        "preset": preset, "spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels, "size": size,
        "mixer": mixer, "strides": strides, "roi_size": roi_size, "published": published, "padding": padding, "norm": norm,
        "condition_width": condition_width, "checkpointing": checkpointing, "project": project, **options,
    }  # fmt: skip
    ground = lay_out(words)
    encoder, decoder = assemble(ground.make, ground.steps)
    network = SegmentationNetwork(
        encoder, decoder, out_channels=out_channels, strides=ground.steps, deep_supervision=deep_supervision
    )
    network.configuration = plain({"deep_supervision": deep_supervision, **ground.words})
    return network


@dataclass(frozen=True)
class Ground:
    """What stands before any part of a network is made.

    Args:
        make: builds levels.
        steps: strides per level and axis.
        words: arguments of `build_network` that say the same again.
    """

    make: "LevelBuilder"
    steps: list[tuple[int, ...]]
    words: dict[str, Any]


def lay_out(words: Mapping[str, Any]) -> Ground:
    """Settle the arguments of `build_network` but `deep_supervision`, and check that they fit together.

    Raises:
        ConfigError: see `build_network`.
    """
    known = {"preset": None, "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "size": None, "mixer": None}
    known |= {"strides": None, "roi_size": None, "published": None, "condition_width": 0, "checkpointing": False}
    asked = {**known, "project": None, **words}
    options = {name: value for name, value in asked.items() if name not in known and name != "project"}
    dims, mixer, roi_size, project = asked["spatial_dims"], asked["mixer"], asked["roi_size"], asked["project"]
    given = {"padding": None, "norm": None, **options}
    form = settle(
        asked["published"], asked["preset"], asked["size"], dims, {k: v for k, v in given.items() if v is not None}
    )
    spec = form.adjust(find_spec(form.preset, form.size, dims, project), dims)
    spec = replace(spec, **check_options(spec, form.options))
    check_layers(spec, mixer)
    mixers = Parts("mixers", MIXERS, project)
    if mixer is not None and mixer not in mixers:
        raise ConfigError(f"mixer: found {mixer!r}. {nearest(mixer, mixers)}")
    if form.padding not in ("masked", "published"):
        raise ConfigError(f"padding: found {form.padding!r}, expected masked or published")
    ins, outs = asked["in_channels"], asked["out_channels"]
    if min(ins, outs) < 1:
        raise ConfigError(f"channels: found {ins} in and {outs} out, expected at least 1 of each")
    steps = resolve_strides(spec, dims, asked["strides"], roi_size)
    patch = None if roi_size is None else per_axis(list(roi_size), dims, "roi_size")
    width, checkpointing = asked["condition_width"], asked["checkpointing"]
    make = LevelBuilder(spec, dims, ins, mixer, form.padding, width, checkpointing, patch, mixers)
    again = {"spatial_dims": dims, "in_channels": ins, "out_channels": outs, "mixer": mixer, "strides": steps,
             "roi_size": patch, "condition_width": width, "checkpointing": checkpointing, "project": project,
             **form.words}  # fmt: skip
    return Ground(make, steps, again)


def assemble(make: "LevelBuilder", steps: Sequence[tuple[int, ...]]) -> tuple[nn.Module, nn.Module]:
    """Encoder (both towers joined) and decoder of a specification."""
    encoder, channels = encoder_of(make, steps)
    return encoder, decoder_of(make, channels, steps)


def encoder_of(make: "LevelBuilder", steps: Sequence[tuple[int, ...]]) -> tuple[nn.Module, list[int]]:
    """The encoder of a specification, both towers joined, and the channels of each level."""
    spec = make.spec
    encoder = make.encoder(spec.levels, steps)
    channels = [level.width for level in spec.levels]
    if not spec.second:
        return encoder, channels
    other = make.encoder(spec.second, steps, start=spec.second_from)
    both = DualEncoder(encoder, other, channels, [level.width for level in spec.second], spec.second_from)
    return both, both.channels


def decoder_of(make: "LevelBuilder", channels: Sequence[int], steps: Sequence[tuple[int, ...]]) -> nn.Module:
    """The decoder of a specification over features of these channels."""
    spec = make.spec
    sites = [make.site(level, kernel) for level, kernel in zip(spec.levels, kernel_sizes(steps), strict=True)]
    decoder_options = dict(spec.decoder_options)
    if "layers" in decoder_options:
        decoder_options["bodies"] = make.bodies(decoder_options.pop("layers"), sites)
    return DECODERS[spec.decoder](sites, list(channels), steps, **decoder_options)


def plain(value: object) -> Any:
    """Mappings, tuples and their contents as a JSON file holds them; entries that are None are left out."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items() if entry is not None}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def find_spec(preset: str, size: str, spatial_dims: int, project: str | None = None) -> NetworkSpec:
    """The specification of a preset at a size."""
    found = find_preset(preset, project)
    if size not in found.sizes:
        raise ConfigError(f"size of {preset}: found {size!r}, expected one of {', '.join(found.sizes)}")
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims: found {spatial_dims}, expected 2 or 3")
    return found.build(size, spatial_dims)


def find_preset(preset: str, project: str | None = None) -> Preset:
    """A preset by name; one of the user's own may be the function (size, dimensions) -> specification alone."""
    presets = Parts("presets", PRESETS, project)
    if preset not in presets:
        raise ConfigError(f"preset: found {preset!r}. {nearest(preset, presets)}")
    found = presets[preset]
    return found if isinstance(found, Preset) else Preset(found, ("base",), "a preset of your own", "")


def check_options(spec: NetworkSpec, options: dict[str, Any]) -> dict[str, Any]:
    """`options`, when each is a field of a specification."""
    known = [name for name in vars(spec) if name not in ("levels", "second", "second_from")]
    for name in options:
        if name not in known:
            raise ConfigError(f"build_network: found option {name!r}. {nearest(name, known)}")
    return options


def check_layers(spec: NetworkSpec, mixer: str | None) -> None:
    """Refuse settings of sub-layers and entries that no level has.

    Raises:
        ConfigError: the name, and the nearest one that the network has.
    """
    levels = (*spec.levels, *spec.second)
    names = {name for level in levels for name in (*flat_names(level.layers), level.entry)} | {mixer or ""}
    names.update(name for layers in spec.decoder_options.get("layers", ()) for name in flat_names(layers))
    for name, settings in spec.layer_options.items():
        if name not in names:
            raise ConfigError(
                f"layer_options: found {name!r}, which this network does not have. {nearest(name, names)}"
            )
        if not isinstance(settings, Mapping):
            raise ConfigError(f"layer_options: {name} is {settings!r}, expected settings by name")


@dataclass(frozen=True)
class LevelBuilder:
    """What all levels of a network share while they are built.

    Args:
        spec: of the whole network.
        spatial_dims: 2 or 3.
        in_channels: of the image.
        mixer: name that takes the place of every token mixer, or None.
        padding: `masked` or `published`, see `build_network`.
        condition_width: channels of a conditioning vector.
        checkpointing: recompute sub-layers in the backward pass.
        patch: voxels of the training patch, where it is known.
        mixers: name -> what makes it, the user's own among them.
    """

    spec: NetworkSpec
    spatial_dims: int
    in_channels: int
    mixer: str | None
    padding: str
    condition_width: int
    checkpointing: bool
    patch: tuple[int, ...] | None
    mixers: Mapping[str, Any]

    def grid(self, steps: Sequence[tuple[int, ...]], index: int) -> tuple[int, ...] | None:
        """Voxels per axis that the training patch leaves on a level, where a patch is known."""
        left = self.patch
        for step in steps[: index + 1]:
            left = None if left is None else tuple(-(-n // s) for n, s in zip(left, step, strict=True))
        return left

    def site(self, level: Level, kernel: tuple[int, ...], grid: tuple[int, ...] | None = None) -> Site:
        """What the sub-layers of a level know about it."""
        spec = self.spec
        window: tuple[int, int, int] | None = None
        if level.window_size is not None:
            x, y, z = (*per_axis(level.window_size, self.spatial_dims, "window_size"), 1)[:3]
            window = (x, y, z)
        return Site(
            width=level.width, num_heads=level.num_heads, window_size=window, spatial_dims=self.spatial_dims,
            kernel_size=kernel, norm=spec.norm, activation=spec.activation, token_norm=spec.token_norm,
            token_norm_eps=spec.token_norm_eps, layer_scale=spec.layer_scale, padding=self.padding,
            condition_width=self.condition_width, grid=grid,
        )  # fmt: skip

    def encoder(self, levels: Sequence[Level], steps: Sequence[tuple[int, ...]], start: int = 0) -> Encoder:
        """An encoder of `levels`; `start` is the index among `steps` of its first level."""
        kernels = kernel_sizes(steps)
        total = sum(count_branches(level) for level in levels)
        rates = [self.spec.drop_path * i / max(total - 1, 1) for i in range(total)]
        built, channels, index_above = [], self.in_channels, -1
        for index, level in enumerate(levels, start):
            site = self.site(level, kernels[index], self.grid(steps, index))
            above = -1 if level.from_image else index_above
            step = tuple(math.prod(s[axis] for s in steps[above + 1 : index + 1]) for axis in range(self.spatial_dims))
            entry = made(
                level.entry,
                ENTRIES[level.entry],
                site,
                self.in_channels if level.from_image else channels,
                step,
                **{**level.options.get("entry", {}), **self.spec.layer_options.get(level.entry, {})},
            )
            own, rates = rates[: count_branches(level)], rates[count_branches(level) :]
            body = self.builder(site, level, own).stage(level.layers)
            built.append(
                EncoderLevel(
                    entry, body, SKIPS[level.skip](site), step=step, from_image=level.from_image,
                    tap_entry=level.tap == "entry",
                )
            )  # fmt: skip
            channels, index_above = level.width, index
        return Encoder(built)

    def builder(self, site: Site, level: Level, rates: list[float]) -> StageBuilder:
        """What makes the sub-layers of a level."""
        return StageBuilder(site, self.settings(level), self.mixer, rates, self.checkpointing, mixers=self.mixers)

    def settings(self, level: Level) -> dict[str, Mapping[str, Any]]:
        """Settings per sub-layer: the level's, and above them the network's."""
        above = self.spec.layer_options
        return {name: {**level.options.get(name, {}), **above.get(name, {})} for name in {*level.options, *above}}

    def bodies(self, layers: Sequence[Sequence[Layer]], sites: Sequence[Site]) -> list[nn.Module]:
        """What runs on the decoder's levels, finest first: the sub-layers of `layers`, without drop path."""
        return [
            self.builder(site, level, [0.0] * len(flat_names(names))).stage(names) if names else nn.Identity()
            for names, site, level in zip(layers, sites, self.spec.levels, strict=False)
        ]


def no_weight_decay(network: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone: biases, gains, decay rates, states, tables."""
    return {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim <= 1 or getattr(parameter, "no_weight_decay", False)
    }
