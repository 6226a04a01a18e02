"""Hybrids of gated linear recurrences and attention, from language to volumes: Gated DeltaNet H1 and H2, Mamba-2-Hybrid."""

from typing import Any

from ..recipe import Level, NetworkSpec, repeat
from .allocation import allocate
from .common import NANO_FINE, residual_levels

# Four heads, four directions: every head scans once, so that all directions together cost as much as one.
FOUR_WAYS = ("raster", "reversed raster", "raster:ZYX", "reversed raster:ZYX")
DELTA: dict[str, Any] = {"expand_k": 0.75, "expand_v": 1.0, "traversals": FOUR_WAYS, "local_mix": "grid"}


def gated_deltanet_h1(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `gated_deltanet_h1`: gated delta rule and sliding-window attention in turn."""
    period = "gated_delta swiglu sliding_window_attention swiglu"
    return _nano_deltanet(period) if size == "nano" else _base_deltanet(period, 3)


def gated_deltanet_h2(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `gated_deltanet_h2`: Mamba-2, gated delta rule and sliding-window attention in turn."""
    period = "ssd swiglu gated_delta swiglu sliding_window_attention swiglu"
    return _nano_deltanet(period) if size == "nano" else _base_deltanet(period, 2)


def _base_deltanet(period: str, count: int) -> NetworkSpec:
    """Ours: the published networks are language models. Head widths, expansions and the order of the mixers are theirs."""
    options: dict[str, dict[str, Any]] = {
        "gated_delta": {"expand_k": 0.75, "expand_v": 1.5, "traversals": FOUR_WAYS, "local_mix": "grid"},
        "ssd": {"state": 64, "traversals": FOUR_WAYS, "local_mix": "grid"},
    }
    return NetworkSpec(
        levels=(
            *residual_levels((32, 64, 128), (1, 1, 3)),
            Level(256, repeat(period, count), num_heads=4, window_size=7,
                  options={**options, "ssd": {**options["ssd"], "head_channels": 64}}),
            Level(320, repeat(period, count), num_heads=4, window_size=7,
                  options={**options, "ssd": {**options["ssd"], "head_channels": 80}}),
        ),
        token_norm="rms",
        drop_path=0.1,
    )  # fmt: skip


def _nano_deltanet(period: str) -> NetworkSpec:
    options: dict[str, dict[str, Any]] = {
        "gated_delta": DELTA,
        "ssd": {"state": 24, "head_channels": 48, "traversals": FOUR_WAYS, "local_mix": "grid"},
        "swiglu": {"ratio": 2.0},
    }
    deep = {**options, "ssd": {**options["ssd"], "head_channels": 64}}
    return NetworkSpec(
        levels=(
            *NANO_FINE,
            Level(96, repeat(period, 1), num_heads=4, window_size=7, options=options),
            Level(128, repeat(period, 1), num_heads=4, window_size=7, options=deep),
        ),
        token_norm="rms",
    )


def mamba2_hybrid(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `mamba2_hybrid`: single sub-layers in the published proportions of state space, attention and MLP.

    `base` is ours, the published network is a language model: an eighth of the sub-layers attends, half are MLPs.
    """
    if size == "nano":
        fine, counts, widths, state, ratio = NANO_FINE, (8, 8), (96, 128), 24, 2.5
    else:
        fine, counts, widths, state, ratio = residual_levels((32, 48, 96), (1, 1, 3)), (16, 8), (192, 384), 64, 4.0
    heads = 4 if size == "nano" else 8
    coarse = tuple(
        Level(
            width, allocate(count, attention=0.125), num_heads=heads,
            options={
                "ssd": {"state": state, "head_channels": 2 * width // heads, "traversals": FOUR_WAYS, "local_mix": "grid"},
                "full_attention": {"bias": False},
                "mlp": {"ratio": ratio},
            },
        )
        for width, count in zip(widths, counts, strict=True)
    )  # fmt: skip
    return NetworkSpec(levels=(*fine, *coarse), token_norm="rms", drop_path=0.0 if size == "nano" else 0.1)
