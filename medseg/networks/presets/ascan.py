"""Convolution and attention blocks in one stage, in a pattern that is given: more convolutions early, more attention late."""

from medseg.errors import ConfigError

from ..recipe import Level, NetworkSpec
from .common import NANO_FINE, fine_levels

BLOCKS = {"C": ("mbconv",), "T": ("full_attention", "mlp")}
# a pattern per stage; what is asymmetric is the share of either kind, which changes along the network
NANO_STAGES = ((96, 4, "CCT"), (128, 4, "CTT"))  # width, heads, pattern
BASE_STAGES = ((128, 4, "CCC"), (256, 8, "CCCT"), (384, 12, "CCTTT"), (512, 16, "TTTT"))


def pattern(letters: str) -> tuple[str, ...]:
    """`pattern("CCT")` is two convolution blocks, then an attention block.

    Raises:
        ConfigError: a letter that is neither C nor T.
    """
    if not letters or set(letters) - set(BLOCKS):
        raise ConfigError(f"pattern: found {letters!r}, expected letters C (convolution) and T (attention)")
    return tuple(layer for letter in letters for layer in BLOCKS[letter])


def ascan(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `ascan`: plain levels near full resolution, then stages of both kinds of blocks by their patterns."""
    stages = NANO_STAGES if size == "nano" else BASE_STAGES
    coarse = tuple(Level(width, pattern(letters), num_heads=heads) for width, heads, letters in stages)
    if size == "nano":
        return NetworkSpec(levels=(*NANO_FINE, *coarse))
    return NetworkSpec(levels=(*fine_levels(32, 2), *coarse), drop_path=0.2)
