"""The baselines: nnU-Net's residual encoder and MedNeXt."""

from medseg.networks.specs import Level, NetworkSpec, repeat

# Widths and residual blocks per level. The published presets differ in the memory that the planner may fill (8, 24 and
# 40 GB), hence in patch and depth: m on 128^3, l and xl deep enough for 160^3 and 192^3.
RESENC_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "m": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "l": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "xl": ((32, 64, 128, 256, 320, 320, 320), (1, 3, 4, 6, 6, 6, 6)),
}


def resenc_unet(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `resenc_unet`."""
    widths, counts = ((16, 32, 64, 96, 96), (1, 1, 1, 1, 1)) if size == "nano" else RESENC_SIZES[size]
    return NetworkSpec(
        levels=tuple(
            Level(width, repeat("residual", count), stride=1 if i == 0 else 2)
            for i, (width, count) in enumerate(zip(widths, counts, strict=True))
        )
    )
