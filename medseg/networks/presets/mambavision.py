"""MambaVision: two convolution stages, two stages of scan blocks followed by attention blocks."""

from ..recipe import Level, NetworkSpec, repeat
from .common import published_stem

# width, stem width, blocks per stage, heads, largest drop path, layer scale
MAMBAVISION_SIZES: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...], float, float | None]] = {
    "t": (80, 32, (1, 3, 8, 4), (2, 4, 8, 16), 0.2, None),
    "t2": (80, 32, (1, 3, 11, 4), (2, 4, 8, 16), 0.2, None),
    "s": (96, 64, (3, 3, 7, 5), (2, 4, 8, 16), 0.2, None),
    "b": (128, 64, (3, 3, 10, 5), (2, 4, 8, 16), 0.3, 1e-5),
    "l": (196, 64, (3, 3, 10, 5), (4, 8, 16, 32), 0.3, 1e-5),
    "l2": (196, 64, (3, 3, 12, 5), (4, 8, 16, 32), 0.3, 1e-5),
    "l3": (256, 64, (3, 3, 20, 10), (4, 8, 16, 32), 0.5, 1e-5),
}

# Tokens per axis of a window in stages 3 and 4. A window of 14 x 14 lifted to 3D would hold 2744 tokens: 7 there.
WINDOWS = {2: (14, 7), 3: (7, 7)}
WINDOWS_L3 = {2: (16, 8), 3: (8, 8)}  # trained at 256 pixels
NO_BIAS = {"window_attention": {"bias": "none"}}


def blocks(count: int) -> tuple[str, ...]:
    """The first half of a stage scans, the last floor(count / 2) blocks attend."""
    return repeat("mambavision mlp", count - count // 2) + repeat("window_attention mlp", count // 2)


def mambavision(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `mambavision`; `nano` starts at full resolution, the published sizes at stride 4."""
    if size == "nano":
        return NetworkSpec(
            levels=(
                Level(16, ("residual",), stride=1),
                Level(32, ("hybrid_conv",)),
                Level(64, ("hybrid_conv",)),
                Level(96, blocks(3), num_heads=4, window_size=7, options=NO_BIAS),
                Level(128, blocks(2), num_heads=4, window_size=7, options=NO_BIAS),
            )
        )
    width, stem, counts, heads, drop_path, scale = MAMBAVISION_SIZES[size]
    third, fourth = (WINDOWS_L3 if size == "l3" else WINDOWS)[spatial_dims]
    convs = [repeat("hybrid_conv", count) for count in counts[:2]]
    return NetworkSpec(
        levels=(
            *published_stem(width, stem),
            Level(width, convs[0], entry="stem", skip="layer_norm"),
            Level(2 * width, convs[1], entry="bare", skip="layer_norm"),
            Level(4 * width, blocks(counts[2]), entry="bare", skip="layer_norm", num_heads=heads[2], window_size=third,
                  options=NO_BIAS),
            Level(8 * width, blocks(counts[3]), entry="bare", skip="layer_norm", num_heads=heads[3], window_size=fourth,
                  options=NO_BIAS),
        ),
        drop_path=drop_path,
        layer_scale=scale,
        decoder_options={"block": "residual"},
    )  # fmt: skip
