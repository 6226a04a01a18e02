"""Hybrids of gated linear recurrences and attention, from language to volumes: Gated DeltaNet H1 and H2, Mamba-2-Hybrid."""

from typing import Any

from medseg.networks.allocate import allocate
from medseg.networks.presets.common import NANO_FINE
from medseg.networks.specs import Level, NetworkSpec, repeat

# Four heads, four directions: every head scans once, so that all directions together cost as much as one.
FOUR_WAYS = ("raster", "reversed raster", "raster:ZYX", "reversed raster:ZYX")
DELTA: dict[str, Any] = {"expand_k": 0.75, "expand_v": 1.0, "traversals": FOUR_WAYS, "local_mix": "grid"}


def gated_deltanet_h1(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `gated_deltanet_h1`: gated delta rule and sliding-window attention in turn."""
    return _gated_deltanet("gated_delta swiglu sliding_window_attention swiglu", 1)


def gated_deltanet_h2(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `gated_deltanet_h2`: Mamba-2, gated delta rule and sliding-window attention in turn."""
    return _gated_deltanet("ssd swiglu gated_delta swiglu sliding_window_attention swiglu", 1)


def _gated_deltanet(period: str, count: int) -> NetworkSpec:
    options: dict[str, dict[str, Any]] = {
        "gated_delta": DELTA,
        "ssd": {"state": 24, "head_channels": 48, "traversals": FOUR_WAYS, "local_mix": "grid"},
        "swiglu": {"ratio": 2.0},
    }
    deep = {**options, "ssd": {**options["ssd"], "head_channels": 64}}
    return NetworkSpec(
        levels=(
            *NANO_FINE,
            Level(96, repeat(period, count), num_heads=4, window_size=7, options=options),
            Level(128, repeat(period, count), num_heads=4, window_size=7, options=deep),
        ),
        token_norm="rms",
    )


def mamba2_hybrid(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `mamba2_hybrid`: single sub-layers in the published proportions of state space, attention and MLP."""
    options: dict[str, dict[str, Any]] = {
        "ssd": {"state": 24, "traversals": FOUR_WAYS, "local_mix": "grid"},
        "full_attention": {"bias": False},
        "mlp": {"ratio": 2.5},
    }
    return NetworkSpec(
        levels=(
            *NANO_FINE,
            Level(96, allocate(8, attention=0.125), num_heads=4,
                  options={**options, "ssd": {**options["ssd"], "head_channels": 48}}),
            Level(128, allocate(8, attention=0.125), num_heads=4,
                  options={**options, "ssd": {**options["ssd"], "head_channels": 64}}),
        ),
        token_norm="rms",
    )  # fmt: skip
