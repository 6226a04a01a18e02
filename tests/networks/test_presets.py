"""Every preset: sizes, gradients for every parameter, the ablation, state dicts, names of the wrong size."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import MIXERS, PRESETS, build_network


@pytest.mark.parametrize("preset", PRESETS)
def test_nano_holds_between_one_and_a_half_and_three_million_parameters(preset: str) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in build_network(preset).parameters())
    assert 1.5e6 <= count <= 3e6, f"{count / 1e6:.2f} M"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_gets_a_finite_gradient_in_3d(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, in_channels=2, out_channels=3)
    scales = network.forward_scales(torch.randn(1, 2, 33, 20, 24))
    assert scales[0].shape == (1, 3, 33, 20, 24)
    assert len(scales) == len(network.strides) - 1
    sum(logits.square().mean() for logits in scales).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_scripted_2d_network_gives_the_same_logits_on_odd_sizes(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, spatial_dims=2).eval()
    image = torch.randn(2, 1, 41, 34)
    with torch.no_grad():
        expected = network(image)
        assert expected.shape == (2, 2, 41, 34)
        torch.testing.assert_close(torch.jit.script(network)(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_identity_ablation_is_one_key_and_leaves_no_mixer(preset: str) -> None:
    network = build_network(preset, spatial_dims=2, mixer="identity")
    kinds = {type(module) for module in network.modules()}
    assert not kinds & (set(MIXERS.values()) - {MIXERS["identity"]})
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 2, 32, 32)


# their heads fall into one group per axis: mambavision's 2 to 16 heads make two groups, not three
PER_AXIS = {"axial_attention", "stripe_attention"}


@pytest.mark.parametrize("mixer", sorted(set(MIXERS) - {"time_attention"}))
def test_any_mixer_can_take_the_place_of_the_presets_own(mixer: str) -> None:
    patch = [32, 32] if mixer in PER_AXIS else [32, 32, 16]
    network = build_network("mambavision", spatial_dims=len(patch), mixer=mixer, roi_size=patch)
    assert network(torch.randn(1, 1, *patch)).shape == (1, 2, *patch)


@pytest.mark.parametrize("mixer", sorted(PER_AXIS))
def test_heads_that_do_not_fall_into_the_axes_are_refused(mixer: str) -> None:
    with pytest.raises(ConfigError, match="multiple of 3 heads"):
        build_network("mambavision", spatial_dims=3, mixer=mixer)


@pytest.mark.parametrize("preset", ["mambavision", "vir", "segmamba", "fastervit"])
def test_state_dict_round_trip(preset: str) -> None:
    first, second = (build_network(preset, spatial_dims=2).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(second(image), first(image), rtol=0, atol=0)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = build_network("fastervit", spatial_dims=2, checkpointing=checkpointing)
        torch.manual_seed(1)
        network(torch.randn(2, 1, 48, 48)).square().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_anisotropic_strides_keep_the_coarse_axis() -> None:
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]
    network = build_network("mambavision", strides=strides)
    assert network.divisor == (16, 16, 4)
    assert network(torch.randn(1, 1, 32, 32, 7)).shape == (1, 2, 32, 32, 7)
    first = network.encoder.levels[0].entry.block.convolution
    assert first.kernel_size == (3, 3, 1)


def test_autocast_keeps_logits_finite_and_close() -> None:
    torch.manual_seed(0)
    network = build_network("mambavision", spatial_dims=2).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image)
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "expected one of nano"),
        ({"mixer": "time_attention"}, "no conditioning vector"),
        ({"strides": [1, 2]}, "found 2 levels, expected 5"),
        ({"strides": [2, 2, 2, 2, 2]}, "1 on the first level"),
        ({"strides": [1, 2, 2, 2, 2], "roi_size": [8, 32, 32]}, "expected at least"),
        ({"padding": "zero"}, "masked or published"),
        ({"decodr": "light"}, "Did you mean decoder"),
        ({"out_channels": 0}, "at least 1 of each"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("mambavision", **options)
