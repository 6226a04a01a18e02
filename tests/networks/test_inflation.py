"""Depth 1: a 3D mixer or network with the weights of its 2D form gives the 2D result."""

import pytest
import torch

from medseg.networks import MIXERS, PRESETS, build_network
from tests.networks.agreement import randomise, site, stage
from tests.networks.inflation import inflate

# Their heads fall into one group per axis, so the 2D and the 3D form share no weights.
PER_AXIS = {"stripe_attention", "axial_attention"}
PER_AXIS_PRESETS = {"cswin", "axial"}
OPTIONS: dict[str, dict] = {"ssd": {"state": 6, "head_channels": 6}}


@pytest.mark.parametrize("name", sorted(set(MIXERS) - PER_AXIS))
@pytest.mark.parametrize("local_mix", [None, "grid"])
def test_mixer_on_a_volume_of_depth_one(name: str, local_mix: str | None) -> None:
    takes_it = {"ssd", "gated_delta", "mlstm", "selective_scan"}
    if local_mix is not None and name not in takes_it:
        return  # only these have a choice of convolution
    options = {name: {**OPTIONS.get(name, {}), **({} if local_mix is None else {"local_mix": local_mix})}}
    torch.manual_seed(0)
    places = [site(12, dims=dims, num_heads=3, window=(3, 3, 1), condition_width=5) for dims in (2, 3)]
    flat, deep = (stage(place, (name,), options) for place in places)
    inflate(randomise(flat), deep)
    image, condition = torch.randn(2, 12, 6, 7), torch.randn(2, 5)
    torch.testing.assert_close(
        deep(image.unsqueeze(-1), condition).squeeze(-1), flat(image, condition), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - PER_AXIS_PRESETS))
def test_network_on_a_volume_of_depth_one(preset: str) -> None:
    torch.manual_seed(0)
    flat = randomise(build_network(preset, spatial_dims=2)).eval()
    steps = [[*step, 1] for step in flat.strides]
    deep = build_network(preset, spatial_dims=3, strides=steps).eval()
    inflate(flat, deep)
    image = torch.randn(1, 1, 32, 40)
    with torch.no_grad():
        expected = flat(image)
        found = deep(image.unsqueeze(-1)).squeeze(-1)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
