"""FasterViT: two convolution stages, a stage of hierarchical attention with carrier tokens, a stage of window attention."""

from ..recipe import Level, NetworkSpec, repeat
from .common import NANO_FINE, published_stem

# width, stem width, blocks per stage, heads of stages 3 and 4, largest drop path, layer scale
FASTERVIT_SIZES: dict[str, tuple[int, int, tuple[int, ...], tuple[int, int], float, float | None]] = {
    "0": (64, 64, (2, 3, 6, 5), (8, 16), 0.2, None),
    "1": (80, 32, (1, 3, 8, 5), (8, 16), 0.2, None),
    "2": (96, 64, (3, 3, 8, 5), (8, 16), 0.2, None),
    "3": (128, 64, (3, 3, 12, 5), (8, 16), 0.3, 1e-5),
    "4": (196, 64, (3, 3, 12, 5), (16, 32), 0.3, 1e-5),
    "5": (320, 64, (3, 3, 12, 5), (16, 32), 0.3, 1e-5),
    "6": (320, 64, (3, 3, 16, 8), (16, 32), 0.5, 1e-5),
}
SPREADING = ("3", "4", "5", "6")  # sizes that add their carriers to the map at the end of a stage
CARRIERS = {"carrier_attention": {"per_axis": 2}}
NO_CARRIERS = {"carrier_attention": {"per_axis": 0}}
EXACT_GELU = {"hybrid_conv": {"gelu": "gelu"}}


def blocks(count: int) -> tuple[str, ...]:
    """Hierarchical attention blocks; without carriers they are window attention with continuous positions."""
    return repeat("carrier_attention carrier_mlp", count)


def fastervit(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `fastervit`; windows of 7 tokens per axis as published, 4 in the nano size."""
    if size == "nano":
        return NetworkSpec(
            levels=(
                *NANO_FINE,
                Level(80, blocks(2), entry="norm_convolution", num_heads=4, window_size=4, options=CARRIERS),
                Level(112, blocks(2), entry="norm_convolution", num_heads=4, window_size=4, options=NO_CARRIERS),
            )
        )
    width, stem, counts, heads, drop_path, scale = FASTERVIT_SIZES[size]
    spread = ("carrier_spread",) if size in SPREADING else ()
    return NetworkSpec(
        levels=(
            *published_stem(width, stem),
            Level(width, repeat("hybrid_conv", counts[0]), entry="stem", skip="layer_norm", options=EXACT_GELU),
            Level(2 * width, repeat("hybrid_conv", counts[1]), entry="norm_convolution", skip="layer_norm",
                  options=EXACT_GELU),
            Level(4 * width, (*blocks(counts[2]), *spread), entry="norm_convolution", skip="layer_norm", num_heads=heads[0],
                  window_size=7, options=CARRIERS),
            Level(8 * width, blocks(counts[3]), entry="norm_convolution", skip="layer_norm", num_heads=heads[1],
                  window_size=7, options=NO_CARRIERS),
        ),
        drop_path=drop_path,
        layer_scale=scale,
        decoder_options={"block": "residual"},
    )  # fmt: skip
