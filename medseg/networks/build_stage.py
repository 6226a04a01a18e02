"""From a level's names to its stage: each name becomes a residual sub-layer with the settings of its place."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from medseg.errors import ConfigError, nearest

from .contract import Site
from .convolutions import CONVOLUTIONS
from .mixers import CHANNEL_MIXERS, MIXERS
from .recipe import Layer, Level, Parallel, Replace, TokensOrChannels
from .stages import Branches, ConvStage, OnChannels, OnImage, Replacing, Residual, TokenStage, Unchanged
from .stages import Sequence as LayerSequence

# Mixers that compute within windows and whose released networks fill the grid with zeros at the entry of the stage.
PADDED_AT_ENTRY = ("mambavision", "carrier_attention")
# Sub-layers that have no branch which could be dropped.
WITHOUT_BRANCH = ("carrier_spread", "depthwise")


@dataclass
class StageBuilder:
    """Makes the sub-layers of one level.

    Args:
        site: of the level.
        options: settings per sub-layer name.
        mixer: name that takes the place of every token mixer, or None.
        rates: drop-path rate of each sub-layer, consumed in order.
        checkpointing: recompute sub-layers in the backward pass.
        mixers_so_far: token mixers that were made before.
        mixers: every token mixer that a name may stand for.
    """

    site: Site
    options: Mapping[str, Mapping[str, Any]]
    mixer: str | None
    rates: list[float]
    checkpointing: bool = False
    mixers_so_far: int = 0
    mixers: Mapping[str, Any] = field(default_factory=lambda: MIXERS)

    def stage(self, layers: Sequence[Layer]) -> nn.Module:
        """All sub-layers of the level as one module: image in, image out."""
        if all(isinstance(layer, str) and layer in CONVOLUTIONS for layer in layers):
            blocks = [self.convolution(layer) for layer in layers if isinstance(layer, str)]
            return ConvStage(blocks, checkpointing=self.checkpointing)
        built = [self.layer(layer) for layer in layers]
        used = set(flat_names(layers)) if self.mixer is None else {self.mixer}
        pad = (
            self.site.padding == "published" and bool(used & set(PADDED_AT_ENTRY)) and self.site.window_size is not None
        )
        return TokenStage(
            self.site, built, self.preparations(layers), pad_windows=pad, checkpointing=self.checkpointing
        )

    def layer(self, layer: Layer) -> nn.Module:
        """One sub-layer of a token stage."""
        if isinstance(layer, Parallel):
            branches = [LayerSequence([self.layer(name) for name in branch]) for branch in layer.branches]
            return Branches(list(branches), residual=layer.residual)
        if isinstance(layer, TokensOrChannels):
            return self.tokens_or_channels(layer)
        if isinstance(layer, Replace):
            name = self.mixer or layer.mixer
            return Unchanged() if name == "identity" else Replacing(self.site, self.token_mixer(name))
        if layer in CONVOLUTIONS:
            return OnImage(self.site, self.convolution(layer))
        if layer == "carrier_spread":
            return self.token_mixer(layer)
        name = self.mixer if self.mixer is not None and self.mixes_tokens(layer) else layer
        if name == "identity":
            self.rates.pop(0)
            return Unchanged()
        rate = self.rates.pop(0)
        mixer = self.token_mixer(name, rate)
        return mixer if getattr(mixer, "whole", False) else Residual(replace(self.site, drop_path=rate), mixer)

    def tokens_or_channels(self, layer: TokensOrChannels) -> nn.Module:
        """The sub-layer along the tokens, or along the channels where the patch leaves no more tokens than them."""
        grid = self.site.grid
        if grid is None or math.prod(grid) > self.site.width:
            return self.layer(layer.layer)
        site = replace(self.site, width=math.prod(grid), window_size=None, grid=None)
        inner = replace(self, site=site)
        self.mixers_so_far += 1
        return OnChannels(inner.layer(layer.layer), site.width)

    def convolution(self, name: str) -> nn.Module:
        """A convolution kind by name."""
        site = replace(self.site, drop_path=0.0 if name in WITHOUT_BRANCH else self.rates.pop(0))
        return made(name, CONVOLUTIONS[name], site, **self.options.get(name, {}))

    def token_mixer(self, name: str, rate: float = 0.0) -> nn.Module:
        """A token or channel mixer by name, without norm and residual."""
        kind = CHANNEL_MIXERS.get(name) or self.mixers.get(name)
        if kind is None:
            raise ConfigError(
                f"sub-layer: found {name!r}. {nearest(name, [*self.mixers, *CHANNEL_MIXERS, *CONVOLUTIONS])}"
            )
        site = replace(self.site, index=self.mixers_so_far, drop_path=rate)
        self.mixers_so_far += name not in CHANNEL_MIXERS
        return made(name, kind, site, **self.options.get(name, {}))

    def mixes_tokens(self, name: str) -> bool:
        """Whether a name stands for a token mixer."""
        return name not in CHANNEL_MIXERS and name not in CONVOLUTIONS and name in self.mixers

    def preparations(self, layers: Sequence[Layer]) -> list[nn.Module]:
        """What the mixers of these layers need made at stage entry, each once."""
        names = [self.mixer if self.mixer and self.mixes_tokens(name) else name for name in flat_names(layers)]
        steps = []
        for name in dict.fromkeys(names):
            make = getattr(self.mixers[name], "prepare", None) if self.mixes_tokens(name) else None
            if make is not None:
                steps.append(made(name, make, self.site, **self.options.get(name, {})))
        return steps


def made(name: str, kind: Callable[..., nn.Module], *places: object, **settings: object) -> nn.Module:
    """`kind(*places, **settings)`.

    Raises:
        ConfigError: a setting that this kind does not have.
    """
    known = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for word in settings:
        if word not in known:
            raise ConfigError(f"settings of {name}: found {word!r}. {nearest(word, known)}")
    return kind(*places, **settings)


def flat_names(layers: Sequence[Layer]) -> list[str]:
    """Every name in a list of layers, those inside branches included."""
    names: list[str] = []
    for layer in layers:
        if isinstance(layer, TokensOrChannels):
            names += flat_names([layer.layer])
        elif isinstance(layer, Parallel):
            for branch in layer.branches:
                names += flat_names(branch)
        else:
            names.append(layer.mixer if isinstance(layer, Replace) else layer)
    return names


def count_branches(level: Level) -> int:
    """Sub-layers of a level that have a drop-path rate."""
    layers = [layer.layer if isinstance(layer, TokensOrChannels) else layer for layer in level.layers]
    return sum(not isinstance(layer, Replace) and layer not in WITHOUT_BRANCH for layer in layers) + sum(
        len(flat_names([layer])) - 1 for layer in layers if isinstance(layer, Parallel)
    )
