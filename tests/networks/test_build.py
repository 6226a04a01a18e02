"""Networks as files and graphs: scripting, export, compilation; names that do not exist."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import PRESETS, build_network, no_weight_decay

FAMILIES = ["mambavision", "fastervit", "gated_deltanet_h1", "resenc_unet"]


@pytest.mark.parametrize("preset", FAMILIES)
def test_scripted_network_gives_the_same_logits(preset: str) -> None:
    network = build_network(preset).eval()
    image = torch.randn(1, 1, 32, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", FAMILIES)
def test_exported_network_gives_the_same_logits(preset: str) -> None:
    network = build_network(preset, spatial_dims=2).eval()
    image = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        exported = torch.export.export(network, (image,)).module()
        torch.testing.assert_close(exported(image), network(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", FAMILIES)
def test_compiled_network_is_one_graph_with_the_same_logits_and_gradients(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, spatial_dims=2)
    image = torch.randn(1, 1, 32, 24)
    network(image).square().mean().backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    torch.compile(network, fullgraph=True, backend="aot_eager")(image).square().mean().backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean mambavision"):
        build_network("mambavison")
    with pytest.raises(ConfigError, match="Did you mean identity"):
        build_network("mambavision", mixer="identiti")


def test_weight_decay_touches_no_bias_gain_rate_or_table_of_any_preset_and_every_matrix() -> None:
    kept = ("bias", "rate", "skip", "gain", "table", "tables", "step_write", "position")
    for preset in PRESETS:
        with torch.device("meta"):
            network = build_network(preset)
        free = no_weight_decay(network)
        for name, parameter in network.named_parameters():
            last = name.split(".")[-1]
            named = any(word in name.split(".")[-2:] or last.endswith(f"_{word}") for word in kept)
            matrix = last in ("weight", "taps", "project_scan", "project_dt") and parameter.ndim > 1
            assert name in free or not named, f"{preset}: {name} decays"
            assert name not in free or not matrix or named, f"{preset}: {name} does not decay"
