"""Networks built from a preset's name: shapes, scripting, export, state dicts, errors."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import PRESETS, build_network, no_weight_decay


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_logits_lie_on_the_image_grid_whatever_its_size(preset: str, spatial_dims: int) -> None:
    network = build_network(preset, spatial_dims=spatial_dims, in_channels=2, out_channels=3)
    image = torch.randn(1, 2, *(33, 21, 18)[:spatial_dims])
    scales = network.forward_scales(image)
    assert scales[0].shape == (1, 3, *image.shape[2:])
    assert len(scales) == len(network.strides) - 1
    torch.testing.assert_close(network(image), scales[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_scripted_network_gives_the_same_logits(preset: str) -> None:
    network = build_network(preset).eval()
    image = torch.randn(1, 1, 32, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=1e-4, atol=1e-4)


def test_nano_sizes_hold_between_one_and_a_half_and_three_million_parameters() -> None:
    for preset in PRESETS:
        with torch.device("meta"):
            count = sum(p.numel() for p in build_network(preset).parameters())
        assert 1.5e6 <= count <= 3e6, f"{preset}: {count / 1e6:.2f} M"


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean mambavision"):
        build_network("mambavison")
    with pytest.raises(ConfigError, match="Did you mean identity"):
        build_network("mambavision", mixer="identiti")


def test_no_weight_decay_names_gains_and_biases_only() -> None:
    network = build_network("mambavision")
    parameters = dict(network.named_parameters())
    free = no_weight_decay(network)
    assert free <= parameters.keys()
    assert not any(name.endswith("expand.weight") for name in free)
    assert any(name.endswith("log_rate") for name in free)
