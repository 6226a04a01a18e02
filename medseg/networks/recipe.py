"""The words a preset is written in. A network is a list of levels, finest first; each level is one resolution."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Parallel:
    """Branches that see the same input; their outputs are added (PCT-Net: a convolution beside a pair of windows).

    Args:
        branches: each a sequence of sub-layer names.
        residual: also add the input.
    """

    branches: tuple[tuple[str, ...], ...]
    residual: bool = False


@dataclass(frozen=True)
class Replace:
    """A norm and a mixer whose output takes the place of the tokens: no residual (U-Mamba).

    Args:
        mixer: name of the token mixer.
    """

    mixer: str


@dataclass(frozen=True)
class TokensOrChannels:
    """A token sub-layer; where the training patch leaves no more tokens than channels, the channels are its tokens.

    A network that does this has a map of fixed size there (U-Mamba, xLSTM-UNet): it needs `roi_size`. Without one the tokens
    are the tokens.

    Args:
        layer: name of a residual sub-layer, or `Replace`.
    """

    layer: Union[str, Replace]


Layer = Union[str, Parallel, Replace, TokensOrChannels]


@dataclass(frozen=True)
class Level:
    """One resolution of the encoder: how it is entered, what runs on it, what the decoder gets from it.

    Args:
        width: channels.
        layers: names of the residual sub-layers, in order (convolution kinds, token mixers, `mlp`).
        entry: name of the step that leads here from the level above (a strided convolution, a patch merging ...).
        stride: voxels of the level above per voxel here; one number or one per axis.
        from_image: the entry reads the network's input instead of the level above (published stems and patch embeddings).
        tap: `body` hands the decoder what the layers return, `entry` what they receive (Swin UNETR).
        skip: name of a step between tap and decoder (`none`, `layer_norm`, `norm_mlp`).
        num_heads, window_size: for the mixers of this level; window None is the whole grid.
        options: settings per sub-layer name, handed to its constructor; the key `entry` goes to the entry.
    """

    width: int
    layers: tuple[Layer, ...] = ()
    entry: str = "convolution"
    stride: Union[int, tuple[int, ...]] = 2
    from_image: bool = False
    tap: str = "body"
    skip: str = "none"
    num_heads: int = 1
    window_size: Union[int, tuple[int, ...], None] = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network, as a preset returns it.

    Args:
        levels: finest first.
        norm: norm of the convolutions, `instance`, `instance_plain` (no gain) or `batch`.
        activation: of the plain convolution blocks and the decoder.
        token_norm, token_norm_eps: norm before each token sub-layer.
        drop_path: largest rate; grows linearly over all residual sub-layers of the token and convolution levels.
        layer_scale: initial gain of the residual branches of tokens and of ConvNeXt blocks, None without.
        decoder: `unet`, `unetr` or `light`.
        decoder_options: settings of the decoder; `layers` are names of sub-layers for each of its levels, finest first.
        second: levels of a second tower (ParaTransCNN); its features join those of the first, scale by scale.
        second_from: index of the first level that the second tower's first level is on.
        layer_options: settings per name of a sub-layer or entry, for every level that has it; above those of the levels.
    """

    levels: tuple[Level, ...]
    norm: str = "instance"
    activation: str = "leaky_relu"
    token_norm: str = "layer"
    token_norm_eps: float = 1e-5
    drop_path: float = 0.0
    layer_scale: Union[float, None] = None
    decoder: str = "unet"
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    second: tuple[Level, ...] = ()
    second_from: int = 0
    layer_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def repeat(words: str, count: int) -> tuple[str, ...]:
    """`repeat("mambavision mlp", 2)` is `("mambavision", "mlp", "mambavision", "mlp")`."""
    return tuple(words.split()) * count
