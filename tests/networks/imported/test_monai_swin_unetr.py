"""MONAI's Swin UNETR weights, both versions, 2D and 3D: what is loaded and built again computes what MONAI computes."""

import json
from typing import Any

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.imported.monai_swin_unetr import load_monai_swin_unetr

monai_nets = pytest.importorskip("monai.networks.nets")


def theirs_and_image(dims: int, **options: Any) -> tuple[torch.nn.Module, torch.Tensor]:
    """Every parameter moved: what starts at zero or one hides mistakes. The lowest map is shorter than a window."""
    torch.manual_seed(0)
    made = monai_nets.SwinUNETR(in_channels=2, out_channels=3, feature_size=12, spatial_dims=dims, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made, torch.randn(1, 2, *(64, 32, 32)[:dims])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("use_v2", [False, True])
def test_the_configuration_of_loaded_weights_builds_monais_function_again(dims: int, use_v2: bool) -> None:
    theirs, image = theirs_and_image(dims, use_v2=use_v2)
    loaded = load_monai_swin_unetr(None, theirs.state_dict())
    again = build_network(**json.loads(json.dumps(loaded.configuration))).eval()
    again.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        if dims == 2:
            theirs, again, image = theirs.double(), again.double(), image.double()
        expected, found = theirs(image), again(image)
    assert (found - expected).abs().max() <= (1e-9 if dims == 2 else 1e-5) * expected.abs().max()


def test_a_network_that_reads_the_weights_differently_is_refused() -> None:
    state = theirs_and_image(2)[0].state_dict()
    for network in (
        build_network("swin_unetr", 2, 2, 3, "12"),
        build_network("swin_unetr", 2, 2, 3, "12", padding="published"),
        build_network(published="monai_swin_unetr_12", spatial_dims=2, in_channels=2, out_channels=3, mixer="identity"),
    ):
        before = network.state_dict()["head.weight"].clone()
        with pytest.raises(ConfigError, match="expected"):
            load_monai_swin_unetr(network, state)
        assert torch.equal(network.state_dict()["head.weight"], before)


def other(kind: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The state dict as it should not come."""
    if kind == "renamed":
        state["swinViT.layers1.0.blocks.0.attn.kqv.bias"] = state.pop("swinViT.layers1.0.blocks.0.attn.qkv.bias")
    elif kind == "missing":
        del state["decoder1.transp_conv.conv.weight"]
    return state


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            "renamed",
            r"nothing for encoder\.levels\.1\.body\.layers\.0\.mixer\.qkv\.bias \(36,\); .*kqv.* 150 of .* 151",
        ),
        ("missing", r"nothing for decoder\.ups\.4\.up\.weight .* nothing was loaded"),
        ("dims", r"is \(12, 2, 3, 3, 3\), expected \(12, 2, 3, 3\)"),
        ("size", r"'encoder1\.layer\.conv1\.conv\.weight' is \(12, 2, 3, 3\), expected \(24, 2, 3, 3\)"),
    ],
)
def test_the_first_misfit_is_named_and_nothing_is_loaded(kind: str, says: str) -> None:
    state = other(kind, dict(theirs_and_image(3 if kind == "dims" else 2)[0].state_dict()))
    size = "24" if kind == "size" else "12"
    network = build_network(published=f"monai_swin_unetr_{size}", spatial_dims=2, in_channels=2, out_channels=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=says):
        load_monai_swin_unetr(network, state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_wrapped_and_half_weights_load_and_named_parts_may_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    state = theirs_and_image(2)[0].state_dict()
    expected = load_monai_swin_unetr(None, state).state_dict()["head.weight"]
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    assert torch.equal(load_monai_swin_unetr(None, wrapped).state_dict()["head.weight"], expected)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    assert torch.equal(load_monai_swin_unetr(None, half).state_dict()["head.weight"], expected.half().float())
    assert "half precision" in caplog.text
    network = build_network(published="monai_swin_unetr_12", spatial_dims=2, in_channels=2, out_channels=5)
    before = network.head.weight.clone()
    with pytest.raises(ConfigError, match=r"expected \(5, 12, 1, 1\)"):
        load_monai_swin_unetr(network, state)
    load_monai_swin_unetr(network, state, partial=("head",))
    assert torch.equal(network.head.weight, before)
    assert torch.equal(network.state_dict()["decoder.ups.4.up.weight"], state["decoder1.transp_conv.conv.weight"])


def test_a_published_name_may_not_be_given_another_value_of_what_it_sets() -> None:
    with pytest.raises(ConfigError, match="found padding 'masked', expected 'published'"):
        build_network(published="monai_swin_unetr_12", padding="masked")
    with pytest.raises(ConfigError, match=r"found bias_index 'geometric' of window_attention"):
        build_network(published="monai_swin_unetr_12", layer_options={"window_attention": {"bias_index": "geometric"}})
    with pytest.raises(ConfigError, match="which this network does not have"):
        build_network("resenc_unet", layer_options={"mlstm": {}})
    with pytest.raises(ConfigError, match="settings of mlstm: found 'expant'"):
        build_network("xlstm_unet", layer_options={"mlstm": {"expant": 3}})
