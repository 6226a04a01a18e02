"""Published parameter counts: encoders in their 2D classification form, final norm and 1000-class head added here."""

import pytest
import torch

from medseg.networks import build_network
from medseg.networks.network import SegmentationNetwork

CLASSES = 1000
# preset, size -> millions of parameters as published
PUBLISHED = {
    ("mambavision", "t"): 31.8,
    ("mambavision", "t2"): 35.1,
    ("mambavision", "s"): 50.1,
    ("mambavision", "b"): 97.7,
    ("mambavision", "l"): 228.0,
    ("fastervit", "0"): 31.4,
    ("fastervit", "1"): 53.4,
    ("fastervit", "2"): 75.9,
    ("fastervit", "3"): 159.5,
    ("gcvit", "xxt"): 12.0,
    ("gcvit", "xt"): 20.0,
    ("gcvit", "t"): 28.2,
    ("gcvit", "t2"): 34.5,
    ("gcvit", "s"): 51.1,
}


def on_meta(preset: str, size: str, **options: int) -> SegmentationNetwork:
    with torch.device("meta"):
        return build_network(preset, size=size, **options)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("preset", "size"), PUBLISHED, ids=lambda value: value)
def test_classification_form_has_the_published_number_of_parameters(preset: str, size: str) -> None:
    network = on_meta(preset, size, spatial_dims=2, in_channels=3)
    levels = list(network.encoder.levels)
    width = network.encoder.levels[-1].body.layers[-1].norm.weight.numel()
    total = sum(count(level.entry) + count(level.body) for level in levels[1:])  # the first is the decoder's own
    total += 2 * width + (width + 1) * CLASSES
    assert round(total / 1e6, 1) == pytest.approx(PUBLISHED[preset, size], abs=0.051)


@pytest.mark.parametrize(
    ("preset", "size"), [("mambavision", "b"), ("mambavision", "l"), ("fastervit", "3"), ("gcvit", "s")], ids=str
)
def test_layer_scale_is_on_token_blocks_only(preset: str, size: str) -> None:
    levels = on_meta(preset, size, spatial_dims=2, in_channels=3).encoder.levels
    scaled = ["gain" in " ".join(name for name, _ in level.named_parameters()) for level in levels]
    tokens = [hasattr(level.body, "prepare") for level in levels]
    assert scaled == tokens


@pytest.mark.parametrize(("preset", "millions"), [("swin_unetr", 62.2), ("swin_unetr_v2", 72.8)])
def test_swin_unetr_has_the_parameters_of_the_published_network(preset: str, millions: float) -> None:
    network = on_meta(preset, "48", out_channels=14)
    coarse = count(network.coarse_heads)
    assert round((count(network) - coarse) / 1e6, 1) == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(("size", "millions"), [("s", 5.6), ("b", 10.5), ("m", 17.6), ("l", 61.8)])
def test_mednext_has_the_published_number_of_parameters(size: str, millions: float) -> None:
    network = on_meta("mednext", size, out_channels=14)
    assert count(network) / 1e6 == pytest.approx(millions, rel=0.01)


def test_resenc_has_the_published_number_of_parameters() -> None:
    assert count(on_meta("resenc_unet", "l", out_channels=14)) / 1e6 == pytest.approx(102.4, abs=0.1)


# Rounded in the papers.
ROUNDED = {
    ("vim", "tiny"): 7, ("vim", "small"): 26, ("vim", "base"): 98,
    ("cswin", "t"): 23, ("cswin", "s"): 35, ("cswin", "b"): 78,
}  # fmt: skip


@pytest.mark.parametrize(("preset", "size"), ROUNDED, ids=lambda value: value)
def test_classification_form_is_near_the_rounded_published_number(preset: str, size: str) -> None:
    network = on_meta(preset, size, spatial_dims=2, in_channels=3)
    levels = [level for level in network.encoder.levels if hasattr(level.body, "prepare")]
    width = levels[-1].body.layers[-1].norm.weight.numel()
    total = sum(count(level.entry) + count(level.body) for level in levels) + 2 * width + (width + 1) * CLASSES
    assert total / 1e6 == pytest.approx(ROUNDED[preset, size], rel=0.03)


def test_pctnet_is_within_three_percent_of_the_published_network() -> None:
    """How its levels are entered and joined is not written down anywhere we may read."""
    assert count(on_meta("pctnet", "published")) / 1e6 == pytest.approx(45.3, rel=0.03)


def test_the_levels_of_pctnet_have_parallel_branches_on_both_ways() -> None:
    network = on_meta("pctnet", "published")
    down = [type(level.body.layers[0]).__name__ if len(level.body.layers) else "" for level in network.encoder.levels]
    up = [type(body.layers[0]).__name__ if hasattr(body, "layers") else "" for body in network.decoder.bodies]
    assert down == ["", "", "Branches", "Branches", "Branches"]
    assert up == ["Branches", "Branches", "", ""]


@pytest.mark.parametrize("size", ["m", "l", "xl"])
def test_sizes_of_the_residual_encoder_share_their_block_counts(size: str) -> None:
    """One strided block and the rest, 1 3 4 6 6 6 in all; the sizes differ in the memory that the planner fills."""
    levels = list(on_meta("resenc_unet", size).encoder.levels)
    blocks = [len(level.body.layers) + (index > 0) for index, level in enumerate(levels)]
    assert blocks[:6] == [1, 3, 4, 6, 6, 6]
