"""Every preset: sizes, gradients for every parameter, the ablation, state dicts, names of the wrong size."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import MIXERS, PRESETS, build_network
from medseg.networks.presets.ascan import pattern
from tests.networks.agreement import site


@pytest.mark.parametrize("preset", PRESETS)
def test_nano_holds_between_one_and_a_half_and_three_million_parameters(preset: str) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in build_network(preset).parameters())
    assert 1.5e6 <= count <= 3e6, f"{count / 1e6:.2f} M"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_size_beyond_nano_in_2d_and_3d(preset: str) -> None:
    assert PRESETS[preset].sizes[0] == "nano"
    for dims in (2, 3):
        with torch.device("meta"):
            nano, *larger = (build_network(preset, dims, size=size) for size in PRESETS[preset].sizes)
        counts = [sum(p.numel() for p in network.parameters()) for network in larger]
        assert counts == sorted(counts)
        assert counts[0] > 1.5 * sum(p.numel() for p in nano.parameters())


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.larger == ("base",)])
def test_a_base_size_runs_and_sees_its_whole_input(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset, spatial_dims=2, size="base").eval()
    image = torch.randn(1, 1, 44, 36, requires_grad=True)
    logits = network(image)
    assert logits.shape == (1, 2, 44, 36)
    (gradient,) = torch.autograd.grad(logits[0, 0, 20, 20], image)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.9


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


SCRIPTED_QUICKLY = {"axial", "mednext", "paratranscnn", "resenc_unet", "swin_unetr", "vim"}


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in SCRIPTED_QUICKLY else pytest.mark.slow) for name in PRESETS]
)
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


@pytest.mark.parametrize("preset", PRESETS)
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
        ({"out_channels": 0}, "found 1 in and 0 out, expected at least 1 of each"),
        ({"spatial_dims": 4}, "found 4, expected 2 or 3"),
        ({"preset": "mambavison"}, "found 'mambavison'.*Did you mean mambavision"),
        ({"preset": "transformer"}, "axial.*xlstm_unet"),
        ({"mixer": "reteniton"}, "found 'reteniton'.*Did you mean retention"),
        ({"mixer": "rnn"}, "axial_attention.*window_attention"),
        ({"preset": "segmamba", "strides": [1, 2, 2, 2, 2], "roi_size": [32, 32, 15]}, "found .32, 32, 15.*16, 16, 16"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(**{"preset": "mambavision", **options})


ATTENTION = sorted(name for name in MIXERS if name.endswith("attention") and name != "full_attention")


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_a_window_of_nothing_and_no_heads_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"window_size: found \(0, 4, 1\), expected at least 1 token per axis"):
        MIXERS[name](site(12, num_heads=2, window=(0, 4, 1), condition_width=3))
    with pytest.raises(ConfigError, match="found width 12 and 0 heads, expected at least 1 of each"):
        MIXERS[name](site(12, num_heads=0, window=3, condition_width=3))


@pytest.mark.parametrize(
    "name", [*ATTENTION, "full_attention", "gated_delta", "gla", "mlstm", "retention", "multi_head_scan"]
)
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"found (width )?\d+ (inner channels, |and )[45] heads"):
        MIXERS[name](site(22 if name == "multi_head_scan" else 12, num_heads=5, window=3, condition_width=4))


def test_channels_of_ssd_and_mambavision_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"found 24 inner channels, 64 per head.*expected heads that divide"):
        MIXERS["ssd"](site(12))
    with pytest.raises(ConfigError, match="found width 13, expected an even one"):
        MIXERS["mambavision"](site(13))


def test_a_time_attention_without_its_condition_is_refused_at_construction_and_at_the_call() -> None:
    with pytest.raises(ConfigError, match="no conditioning vector; expected build_network"):
        MIXERS["time_attention"](site(12, num_heads=2, window=3))
    network = build_network("swin_unetr", spatial_dims=2, mixer="time_attention", condition_width=4)
    assert network(torch.randn(1, 1, 32, 32), torch.randn(1, 4)).shape == (1, 2, 32, 32)
    with pytest.raises(AssertionError, match="without its condition"):
        network(torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "mm"}, "spacing_mm None"),
        ({"decay": "mm", "order": "raster", "spacing_mm": (1.0, 1.0)}, "order 'raster'"),
        ({"decay": "slow"}, "found .*'slow'.*expected"),
    ],
)
def test_retention_refuses_what_it_cannot_mean(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MIXERS["retention"](site(12, num_heads=2), **options)


def test_a_pattern_of_letters_is_a_stage_and_other_letters_are_refused() -> None:
    assert pattern("CT") == ("mbconv", "full_attention", "mlp")
    with pytest.raises(ConfigError, match="found 'CX'"):
        pattern("CX")
