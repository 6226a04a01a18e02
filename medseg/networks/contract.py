"""What a token sub-layer may need besides its tokens, and where in the network it sits.

B batch, C channels, X Y Z space, H heads, T tokens in a window.
"""

from dataclasses import dataclass
from typing import NamedTuple, Optional

from torch import Tensor

from medseg.errors import ConfigError


class Context(NamedTuple):
    """Side tensors of one stage; every mixer receives it and hands it on, changed or not.

    Fields:
        carriers: (B, Xc, Yc, Zc, C) carrier tokens of FasterViT on their own grid, a block of them per window.
        query: (B, *window, H, C // H) global query of GC ViT, the same for every window of a volume.
        condition: (B, C_condition) vector of the sample, or (B, X, Y, Z, C_condition) of each token (time, label embedding), for
            `time_attention`.
        gain: (C,) layer scale of the last attention among carriers, which also weighs what they give back to the map.
        valid: (B, X, Y, Z) booleans, False where a token is padding; None where all are real. Mixers leave padding out.
    """

    carriers: Optional[Tensor] = None
    query: Optional[Tensor] = None
    condition: Optional[Tensor] = None
    valid: Optional[Tensor] = None
    gain: Optional[Tensor] = None


@dataclass(frozen=True)
class Site:
    """Where a sub-layer stands; a mixer reads its sizes from here and its own settings from keyword arguments.

    Args:
        width: channels of the tokens.
        num_heads: attention or recurrence heads; must divide `width` where a mixer splits it.
        window_size: tokens per axis, always three (2D networks have 1 on the last axis); None is the whole grid.
        spatial_dims: 2 or 3. Tokens are (B, X, Y, Z, C) in both; Z = 1 in 2D.
        index: how many mixers of the stage came before this one (alternating shifts and scan directions).
        condition_width: channels of the conditioning vector, 0 without one.
        kernel_size: of the level's convolutions, per axis; 1 on an axis that is still too coarse for 3.
        norm, activation: of the convolutions.
        token_norm, token_norm_eps: of the norm before a token sub-layer.
        drop_path: stochastic depth rate of this sub-layer's branch.
        layer_scale: initial gain of the branch, None without.
        padding: `masked` (windows that reach beyond the grid leave the missing tokens out) or `published` (zeros take
            part, as in the released networks).
        grid: tokens per axis that the training patch leaves here, None where it is not known.
    """

    width: int
    num_heads: int
    window_size: Optional[tuple[int, int, int]]
    spatial_dims: int
    index: int = 0
    condition_width: int = 0
    kernel_size: tuple[int, ...] = (3, 3, 3)
    norm: str = "instance"
    activation: str = "leaky_relu"
    token_norm: str = "layer"
    token_norm_eps: float = 1e-5
    drop_path: float = 0.0
    layer_scale: Optional[float] = None
    padding: str = "masked"
    grid: Optional[tuple[int, ...]] = None

    def __post_init__(self) -> None:
        """Refuse sizes that no sub-layer can work with.

        Raises:
            ConfigError: what was found and expected.
        """
        if min(self.width, self.num_heads) < 1:
            raise ConfigError(f"found width {self.width} and {self.num_heads} heads, expected at least 1 of each")
        if self.window_size is not None and min(self.window_size) < 1:
            raise ConfigError(
                f"window_size: found {self.window_size}, expected at least 1 token per axis, or None for the whole grid"
            )
