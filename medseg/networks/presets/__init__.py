"""Presets by name: each writes a published (or baseline) network in the words of specs.py. One file, one family."""

from collections.abc import Callable
from dataclasses import dataclass

from medseg.networks.specs import NetworkSpec

from .baselines import RESENC_SIZES, resenc_unet
from .mambavision import MAMBAVISION_SIZES, mambavision


@dataclass(frozen=True)
class Preset:
    """A family of networks.

    Args:
        build: (size, spatial_dims) -> specification.
        sizes: names of the sizes, smallest first; `nano` trains on a laptop, the others are the published ones.
        summary: one line for listings.
        source: the publication.
    """

    build: Callable[[str, int], NetworkSpec]
    sizes: tuple[str, ...]
    summary: str
    source: str


PRESETS: dict[str, Preset] = {
    "mambavision": Preset(
        mambavision,
        ("nano", *MAMBAVISION_SIZES),
        "convolution stages, then scan blocks followed by attention blocks",
        "Hatamizadeh and Kautz 2024",
    ),
    "resenc_unet": Preset(
        resenc_unet,
        ("nano", *RESENC_SIZES),
        "residual-encoder U-Net, the baseline every hybrid is measured against",
        "Isensee et al. 2024 (nnU-Net ResEnc)",
    ),
}
