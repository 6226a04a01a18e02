"""GC ViT: every stage alternates local window attention with attention to one global query."""

from collections.abc import Mapping
from typing import Any

from .common import Level, NetworkSpec

# width, blocks per stage, heads, MLP ratio, largest drop path, layer scale
GCVIT_SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], float, float, float | None]] = {
    "xxt": (64, (2, 2, 6, 2), (2, 4, 8, 16), 3.0, 0.2, None),
    "xt": (64, (3, 4, 6, 5), (2, 4, 8, 16), 3.0, 0.2, None),
    "t": (64, (3, 4, 19, 5), (2, 4, 8, 16), 3.0, 0.2, None),
    "t2": (64, (3, 4, 29, 5), (2, 4, 8, 16), 3.0, 0.25, None),
    "s": (96, (3, 4, 19, 5), (3, 6, 12, 24), 2.0, 0.3, 1e-5),
    "s2": (96, (3, 4, 23, 5), (3, 6, 12, 24), 3.0, 0.35, 1e-5),
    "b": (128, (3, 4, 19, 5), (4, 8, 16, 32), 2.0, 0.5, 1e-5),
    "l": (192, (3, 4, 19, 5), (6, 12, 24, 48), 2.0, 0.5, 1e-5),
}
# Tokens per axis of a window, and blocks that shrink the stage input to it (224 x 224 pixels in the publication).
WINDOWS = {2: (7, 7, 14, 7), 3: (7, 7, 7, 7)}
STEPS = (3, 2, 1, 1)
POOLS = (3, 2, 1, 0)  # how many of them halve the map in the released networks for dense use
FILLED = {"fill": True}  # their windows are never clipped: the map is filled up


def blocks(count: int) -> tuple[str, ...]:
    """Local, global, local, ... starting with local."""
    names = ("window_attention", "global_query_attention")
    return tuple(word for index in range(count) for word in (names[index % 2], "mlp"))


def gcvit(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `gcvit`; the nano size attends from stride 4 on."""
    if size == "nano":
        shared: Mapping[str, Mapping[str, Any]] = {"global_query_attention": {"steps": 1}, "mlp": {"ratio": 3.0}}
        return NetworkSpec(
            levels=(
                Level(16, ("residual",), stride=1),
                Level(32, ("residual",)),
                Level(64, blocks(2), entry="reduce_size", num_heads=4, window_size=4, options=shared),
                Level(96, blocks(2), entry="reduce_size", num_heads=4, window_size=4, options=shared),
                Level(128, blocks(2), entry="reduce_size", num_heads=4, window_size=4, options=shared),
            )
        )
    width, counts, heads, ratio, drop_path, scale = GCVIT_SIZES[size]
    windows = WINDOWS[spatial_dims]
    stages = tuple(
        Level(
            width * 2**i, blocks(counts[i]), entry="reduce_size", skip="layer_norm", num_heads=heads[i],
            window_size=windows[i],
            options={
                "global_query_attention": {"steps": STEPS[i], "pools": POOLS[i]}, "mlp": {"ratio": ratio},
                "window_attention": FILLED,
            },
        )
        for i in range(4)
    )  # fmt: skip
    return NetworkSpec(
        levels=(Level(32, ("residual",), stride=1), Level(width, entry="biased", from_image=True), *stages),
        drop_path=drop_path,
        layer_scale=scale,
        decoder_options={"block": "residual"},
    )
