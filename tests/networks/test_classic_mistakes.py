"""The mistakes that re-implementations of these networks make, one test each where published/ does not already catch it.

Caught there, with the formula: concatenation against multiplication of z, the bias of the convolution, 'same' against causal,
the step bias counted twice, tanh against exact GELU, 16 sigmoid with zeros for carriers, positions in every HAT block, the
query repeated image by image, TMSA in q, k and v, gate before norm and norm before gate, L2 norm then scale, decay then
delta, the sum of SegMamba's three directions, the normaliser of the mLSTM, PlainMamba's tensors along their route.
"""

import math

import pytest
import torch
from torch import nn

from medseg.networks import build_network
from medseg.networks.contract import Context
from medseg.networks.layers.common import ImageLayerNorm
from medseg.networks.mixers.carrier_attention import CarrierAttention, pack, unpack
from medseg.networks.mixers.continuous_bias import ContinuousBias, ContinuousPosition
from medseg.networks.mixers.gated_delta import GatedDelta
from medseg.networks.mixers.global_query_attention import GlobalQuery
from medseg.networks.mixers.mambavision import MambaVisionMixer
from medseg.networks.mixers.selective_scan import SelectiveScan
from medseg.networks.mixers.ssd import SSD
from medseg.networks.mixers.window_attention import WindowAttention
from medseg.networks.presets.gcvit import blocks as gcvit_blocks
from medseg.networks.presets.mambavision import blocks as mambavision_blocks
from medseg.networks.stages import Replacing
from tests.networks.agreement import site


@pytest.mark.parametrize(("count", "scans"), [(7, 4), (5, 3), (11, 6), (8, 4), (1, 1)])
def test_the_last_half_of_a_mambavision_stage_attends_rounded_down(count: int, scans: int) -> None:
    names = [name for name in mambavision_blocks(count) if name != "mlp"]
    assert names == ["mambavision"] * scans + ["window_attention"] * (count - scans)


def test_the_published_initialisation_overwrites_the_steps() -> None:
    torch.manual_seed(0)
    ours, theirs = (MambaVisionMixer(site(64), dt_init=kind).project_dt for kind in ("mamba", "mambavision"))
    steps = nn.functional.softplus(ours.bias)
    assert float(steps.min()) > 0.0009
    assert float(steps.max()) < 0.101
    assert not theirs.bias.any()
    assert float(theirs.weight.std()) == pytest.approx(0.02, rel=0.2)


def test_stems_of_the_published_sizes_have_a_larger_epsilon() -> None:
    network = build_network("mambavision", size="t", spatial_dims=2, norm="batch")
    levels = list(network.encoder.levels)
    assert [level.entry.norm.eps for level in levels[1:3]] == [1e-4, 1e-4]
    assert levels[2].body.layers[0].first_norm.eps == 1e-5


def test_channel_norms_and_block_norms_have_epsilons_of_their_own() -> None:
    network = build_network("fastervit", size="0", spatial_dims=2)
    assert {m.norm.eps for m in network.encoder.modules() if isinstance(m, ImageLayerNorm)} == {1e-6}
    assert {m.norm.eps for m in network.modules() if isinstance(m, CarrierAttention)} == {1e-5}
    assert {m.norm.eps for m in build_network("vir", size="s").encoder.levels[-1].body.layers} == {1e-6}


@pytest.mark.parametrize("count", [[2, 3, 1], [4, 2, 3], [1, 1, 5]], ids=str)
def test_carriers_come_back_from_windows_to_their_grid_when_it_is_not_square(count: list[int]) -> None:
    sides = [2 * count[0], 1 * count[1], 3 * count[2]]
    carriers = torch.arange(math.prod(sides), dtype=torch.float32).reshape(1, *sides, 1)
    packed = pack(carriers, count)
    assert torch.equal(unpack(packed, count, carriers), carriers)
    assert torch.equal(packed[0, 0, :, 0], carriers[0, :2, :1, :3, 0].flatten())  # window-major


def test_axes_of_length_one_have_a_position_and_a_bias() -> None:
    assert ContinuousBias(3, 2)([1, 4, 1]).isfinite().all()
    assert ContinuousPosition(3, 8)(torch.randn(1, 1, 4, 1, 8), [1, 4, 1]).isfinite().all()


def test_gcvit_alternates_from_the_local_window_and_makes_its_query_once_per_stage() -> None:
    assert [n for n in gcvit_blocks(3) if n != "mlp"] == [
        "window_attention",
        "global_query_attention",
        "window_attention",
    ]
    network = build_network("gcvit", spatial_dims=2)
    assert [len(getattr(level.body, "prepare", ())) for level in network.encoder.levels] == [0, 0, 1, 1, 1]


def test_the_global_query_is_made_on_grids_that_are_no_power_of_two_apart_in_3d() -> None:
    query = GlobalQuery(site(8, dims=3, num_heads=2, window=(4, 4, 4)), 2)
    made = query(torch.randn(2, 9, 7, 13, 8), Context()).query
    assert made is not None
    assert made.shape == (2, 4, 4, 4, 2, 4)


def test_local_and_global_blocks_have_bias_tables_and_projections_of_their_own() -> None:
    network = build_network("gcvit", spatial_dims=2)
    names = [name for name, _ in network.named_parameters() if name.endswith("mixer.table")]
    assert len(names) == len({id(network.get_parameter(name)) for name in names}) == 6


def test_rates_start_in_their_published_ranges() -> None:
    torch.manual_seed(0)
    wide = site(128, num_heads=32)
    ssd = torch.exp(SSD(wide, head_channels=4).log_rate)
    assert ssd.min() >= 1
    assert ssd.max() <= 16
    assert ssd.shape == (64,)
    delta = torch.exp(GatedDelta(wide).log_rate)
    assert 0 <= delta.min() < 1
    assert delta.max() <= 16
    mamba = torch.exp(SelectiveScan(wide).log_rate[0])
    torch.testing.assert_close(mamba, torch.arange(1.0, 17.0).expand(256, -1), rtol=1e-6, atol=1e-5)


def test_the_skip_is_per_head_in_mamba_2_and_per_channel_in_mamba_1() -> None:
    assert SSD(site(32), head_channels=8).skip.shape == (8,)
    assert SelectiveScan(site(32)).skip.shape == (1, 64)


def test_decay_and_strength_of_the_delta_rule_are_not_swapped() -> None:
    """With strength 0 nothing is ever written, whatever the decay; swapped arguments would write."""
    mixer = GatedDelta(site(8, num_heads=2))
    with torch.no_grad():
        assert mixer.strength.bias is not None
        mixer.strength.weight.zero_()
        mixer.strength.bias.fill_(-200.0)
    assert not mixer(torch.randn(1, 4, 5, 1, 8), Context())[0].any()


@pytest.mark.parametrize("sides", [(33, 20, 24), (17, 48, 31)])
def test_segmamba_takes_patches_that_its_slices_do_not_divide(sides: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert build_network("segmamba").eval()(torch.randn(1, 1, *sides)).shape == (1, 2, *sides)


@pytest.mark.parametrize("preset", ["umamba_bot", "umamba_enc", "xlstm_unet"])
def test_umamba_replaces_the_tokens_and_xlstm_unet_adds_to_them(preset: str) -> None:
    network = build_network(preset, spatial_dims=2)
    found = [module for module in network.modules() if isinstance(module, Replacing)]
    assert len(found) == {"umamba_bot": 1, "umamba_enc": 4, "xlstm_unet": 0}[preset]
    for module in found:
        with torch.no_grad():
            module.mixer.project_out.weight.zero_()
        width = module.norm.weight.numel()
        assert not module(torch.randn(1, 4, 4, 1, width), Context())[0].any()  # no way round the mixer


@pytest.mark.parametrize("preset", ["mambavision", "fastervit", "swin_unetr"])
def test_evaluation_draws_no_random_numbers(preset: str) -> None:
    network = build_network(preset, spatial_dims=2, drop_path=0.5).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("channels", [49, 40, 5, 1])
def test_heads_may_have_any_number_of_channels(channels: int) -> None:
    mixer = WindowAttention(site(2 * channels, num_heads=2, window=3))
    x = torch.randn(1, 4, 5, 1, 2 * channels, requires_grad=True)
    mixer(x, Context())[0].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_scanning_leaves_no_cache_behind_that_grows_with_every_grid() -> None:
    """The released ViL keeps one mask per length and never finds it again."""
    network = build_network("xlstm_unet", spatial_dims=2).eval()
    before = {name for name, _ in network.named_buffers()}
    with torch.no_grad():
        for side in (16, 24, 40):
            network(torch.randn(1, 1, side, 32))
    assert {name for name, _ in network.named_buffers()} == before
