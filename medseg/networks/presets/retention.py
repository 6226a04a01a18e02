"""ViR (isotropic) and its hierarchical relative: retention in the place of attention."""

from ..recipe import Level, NetworkSpec, repeat
from .common import NANO_FINE, fine_levels, published_stem

# width, blocks, heads; patches of 16
VIR_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}


def vir(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `vir`: patches of the image, then blocks at one resolution; a convolution pyramid brings the detail.

    The published form has neither pyramid nor decoder (it classifies) and an absolute position table; here positions are
    the sum of one table per axis. Blocks start from the corners of the volume in turn.
    """
    if size == "nano":
        trunk = Level(
            128, repeat("retention mlp", 6), entry="patchify", from_image=True, num_heads=4,
            options={"entry": {"position": 16}, "mlp": {"ratio": 3.0}},
        )  # fmt: skip
        return NetworkSpec(levels=(*NANO_FINE, trunk), token_norm_eps=1e-6)
    width, count, heads = VIR_SIZES[size]
    trunk = Level(
        width, repeat("retention mlp", count), entry="patchify", from_image=True, num_heads=heads,
        options={"entry": {"position": 14}}, skip="layer_norm",
    )  # fmt: skip
    return NetworkSpec(levels=(*fine_levels(32, 4), trunk), token_norm_eps=1e-6, layer_scale=1e-5)


def hvir(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `hvir`: convolution stages, then retention stages (a ViR-style hybrid; its published widths are not known)."""
    if size == "nano":
        coarse = [
            Level(96, repeat("retention mlp", 3), num_heads=4),
            Level(128, repeat("retention mlp", 2), num_heads=4),
        ]
        return NetworkSpec(levels=(*NANO_FINE, *coarse), token_norm_eps=1e-6)
    return NetworkSpec(
        levels=(
            *published_stem(64, 64),
            Level(64, repeat("hybrid_conv", 2), entry="stem", skip="layer_norm"),
            Level(128, repeat("hybrid_conv", 2), entry="norm_convolution", skip="layer_norm"),
            Level(256, repeat("retention mlp", 6), entry="norm_convolution", skip="layer_norm", num_heads=8),
            Level(512, repeat("retention mlp", 4), entry="norm_convolution", skip="layer_norm", num_heads=16),
        ),
        token_norm_eps=1e-6,
        drop_path=0.2,
        decoder_options={"block": "residual"},
    )
