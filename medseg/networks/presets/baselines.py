"""The baselines: nnU-Net's residual encoder and MedNeXt."""

from ..recipe import Level, NetworkSpec, repeat
from .common import residual_levels

# Widths and residual blocks per level. The published presets m, l and xl differ in the memory that the planner fills
# (8, 24 and 40 GB), hence in patch and depth.
RESENC_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "m": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "l": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "xl": ((32, 64, 128, 256, 320, 320, 320), (1, 3, 4, 6, 6, 6, 6)),
}
# Blocks per position (5 levels down, 4 up) and expansion ratios there.
MEDNEXT_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "s": ((2,) * 9, (2,) * 9),
    "b": ((2,) * 9, (2, 3, 4, 4, 4, 4, 4, 3, 2)),
    "m": ((3, 4, 4, 4, 4, 4, 4, 4, 3), (2, 3, 4, 4, 4, 4, 4, 3, 2)),
    "l": ((3, 4, 8, 8, 8, 8, 8, 4, 3), (3, 4, 8, 8, 8, 8, 8, 4, 3)),
}


def resenc_unet(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `resenc_unet`."""
    if size != "nano":
        return NetworkSpec(levels=residual_levels(*RESENC_SIZES[size]))
    return NetworkSpec(
        levels=tuple(
            Level(width, ("residual",), stride=1 if i == 0 else 2) for i, width in enumerate((16, 32, 64, 96, 96))
        )
    )


def mednext(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `mednext`; kernels of 3."""
    counts, ratios = (
        ((1, 1, 2, 2, 2, 1, 1, 1, 1), (2, 2, 3, 3, 3, 3, 2, 2, 2)) if size == "nano" else MEDNEXT_SIZES[size]
    )
    width = 16 if size == "nano" else 32  # CPUs are several times slower on depthwise convolutions of 20 channels
    levels = tuple(
        Level(
            width * 2**i,
            repeat("mednext", counts[i]),
            entry="pointwise" if i == 0 else "mednext",
            stride=1 if i == 0 else 2,
            options={"mednext": {"ratio": ratios[i]}, "entry": {} if i == 0 else {"ratio": ratios[i]}},
        )
        for i in range(5)
    )
    up = {"num_blocks": list(reversed(counts[5:])), "ratios": list(reversed(ratios[5:]))}
    return NetworkSpec(levels=levels, decoder="mednext", decoder_options=up)
