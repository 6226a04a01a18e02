"""UNETR with Hyena in the place of attention: long convolutions over the whole grid."""

from ..recipe import Level, NetworkSpec, repeat
from .common import NANO_FINE, fine_levels


def hyena_unetr(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `hyena_unetr`: a convolution pyramid, then Hyena at the coarsest resolutions; the UNETR decoder from `base` on.

    `base` follows UNETR: patches of 16 of the image, 12 blocks of 768 channels, and the pyramid in the place of its
    deconvolved skips.
    """
    if size == "nano":
        coarse = [Level(96, repeat("hyena_nd mlp", 3)), Level(128, repeat("hyena_nd mlp", 2))]
        return NetworkSpec(levels=(*NANO_FINE, *coarse))
    trunk = Level(768, repeat("hyena_nd mlp", 12), entry="patchify", from_image=True, skip="layer_norm")
    return NetworkSpec(levels=(*fine_levels(32, 4), trunk), decoder="unetr", drop_path=0.1)
