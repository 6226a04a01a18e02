"""A file of weights comes into a network by its names: our own, or those of a published network it was built for."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.imported.recognise import load_weights

monai_nets = pytest.importorskip("monai.networks.nets")


def test_monais_names_are_recognised_where_the_network_was_built_for_them() -> None:
    torch.manual_seed(0)
    theirs = monai_nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2).eval()
    network = build_network(published="monai_swin_unetr_12", spatial_dims=2).eval()
    kept = load_weights(network, {"model": theirs.state_dict()})
    assert kept == [name for name in network.state_dict() if name.startswith("coarse_heads.")]
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), theirs(image), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="computes something else"):
        load_weights(build_network("swin_unetr", 2, size="12"), theirs.state_dict())
    mednext = monai_nets.mednext.create_mednext("S", 2)
    assert load_weights(build_network(published="monai_mednext_s", spatial_dims=2), mednext.state_dict())
    with pytest.raises(ConfigError, match="found a network built with preset 'mednext'"):
        load_weights(build_network("mednext", 2, size="s"), mednext.state_dict())


def test_own_names_load_whole_or_but_for_the_parts_that_are_listed() -> None:
    torch.manual_seed(0)
    source, target = (build_network("resenc_unet", 2, out_channels=n) for n in (2, 4))
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(
        ConfigError, match=r"'head\.weight' is \(2, 16, 1, 1\), expected \(4, 16, 1, 1\).* nothing was loaded"
    ):
        load_weights(target, state, source="start.pt")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    kept = load_weights(target, state, partial=["head", "coarse_heads"])
    assert {name.split(".")[0] for name in kept} == {"head", "coarse_heads"}
    assert torch.equal(target.state_dict()["decoder.ups.0.up.weight"], source.state_dict()["decoder.ups.0.up.weight"])
    with pytest.raises(ConfigError, match="none of its"):
        load_weights(target, {"something.else": torch.zeros(3)}, partial=[""])
