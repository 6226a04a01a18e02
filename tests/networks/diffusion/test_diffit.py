"""DiffiT in 3D and the scaling around it, against their written-out formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.networks.contract import Context, Site
from medseg.networks.diffusion.diffit import Cell, Diffit3d, DiffitShape, to_depth, to_space
from medseg.networks.diffusion.edm import Denoiser, Scales, build_diffit, label_channels
from medseg.networks.mixers.time_attention import TimeAttention

SMALL = DiffitShape(width=16, multiples=(1, 2), classes=3)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """With no parameter at zero, so that every part of a formula counts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("s", [0.002, 0.05, 0.5, 5.0, 80.0])
@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_input_and_target_have_unit_variance_at_every_noise_level(s: float, sd: float) -> None:
    level = torch.tensor([s], dtype=torch.float64)
    scales = Scales.at(level, sd)
    y, n = sd * torch.randn(200_000, dtype=torch.float64), s * torch.randn(200_000, dtype=torch.float64)
    assert float((scales.input * (y + n)).std()) == pytest.approx(1, abs=0.01)
    assert float(((y - scales.skip * (y + n)) / scales.out).std()) == pytest.approx(1, abs=0.01)
    assert float(scales.weight * scales.out**2) == pytest.approx(1, abs=1e-6)


def test_an_untrained_denoiser_is_its_skip_alone() -> None:
    denoiser = Denoiser(Diffit3d(SMALL), 0.7)
    x, s = torch.randn(2, 1, 8, 8, 8), torch.tensor([0.3, 20.0])
    label = label_channels(torch.zeros(2, 8, 8, 8, dtype=torch.int64), 3)
    assert torch.equal(denoiser(x, s, label), Scales.at(s, 0.7).skip[:, None, None, None, None] * x)


def attention(x: Tensor, mixer: TimeAttention, told: Tensor) -> Tensor:
    """One window over the whole grid, written out; `told` is what the condition adds to queries, keys and values."""
    heads = mixer.num_heads
    qkv = (mixer.spatial(x).flatten(1, 3) + told).unflatten(-1, (3, heads, -1))
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    scores = (q @ k.transpose(-1, -2)) * mixer.scale
    return mixer.project((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).reshape(x.shape)


@pytest.mark.parametrize("per_token", [False, True])
def test_attention_equals_its_formula_with_a_condition_per_sample_and_per_token(per_token: bool) -> None:
    mixer = shaken(TimeAttention(Site(8, 2, None, 3, condition_width=5))).double()
    x = torch.randn(2, 2, 3, 2, 8, dtype=torch.float64)
    condition = torch.randn(*((2, 2, 3, 2, 5) if per_token else (2, 5)), dtype=torch.float64)
    told = mixer.temporal(condition)
    told = told.flatten(1, 3) if per_token else told[:, None]
    y, _ = mixer(x, Context(None, None, condition, None))
    assert torch.allclose(y, attention(x, mixer, told), atol=1e-6)


@pytest.mark.parametrize("per_token", [False, True])
def test_the_key_learns_from_a_condition_per_token_and_never_from_one_per_sample(per_token: bool) -> None:
    mixer = shaken(TimeAttention(Site(8, 2, None, 3, condition_width=5))).double()
    x = torch.randn(2, 2, 3, 2, 8, dtype=torch.float64)
    condition = torch.randn(*((2, 2, 3, 2, 5) if per_token else (2, 5)), dtype=torch.float64)
    mixer(x, Context(None, None, condition, None))[0].square().sum().backward()
    assert mixer.temporal.weight.grad is not None
    key = float(mixer.temporal.weight.grad[8:16].abs().max())
    assert key > 1e-3 if per_token else key <= 1e-10


def test_windows_do_not_see_each_other_and_nothing_is_causal() -> None:
    mixer = shaken(TimeAttention(Site(8, 2, (2, 2, 2), 3, condition_width=5)))
    x, condition = torch.randn(1, 4, 2, 2, 8), torch.randn(1, 5)
    changed = x.clone()
    changed[0, 1, 1, 1] += 1  # the last token of the first window
    before, after = (mixer(each, Context(None, None, condition, None))[0] for each in (x, changed))
    moved = (before - after).abs().amax(-1)[0]
    assert float(moved[2:].max()) == 0
    assert float(moved[:2].min()) > 0  # also the tokens that come before it


def test_a_grid_that_windows_do_not_divide_is_padded_by_masked_keys() -> None:
    mixer = shaken(TimeAttention(Site(8, 2, (4, 4, 4), 3, condition_width=5))).double()
    x, condition = torch.randn(1, 5, 3, 2, 8, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    whole = mixer(x, Context(None, None, condition, None))[0]
    edge = mixer(x[:, 4:], Context(None, None, condition, None))[0]
    assert torch.isfinite(whole).all()
    assert torch.allclose(whole[:, 4:], edge, atol=1e-9)


def test_a_cell_has_its_own_shortcut_and_every_cell_its_own_weights() -> None:
    shape = DiffitShape(width=16, multiples=(1, 2), cells=3)
    cell = shaken(Cell(16, 16, 4, shape))
    x, condition = torch.randn(1, 16, 4, 4, 4), torch.randn(1, 64)
    h = cell.convolution(torch.nn.functional.silu(cell.norm(x)))
    assert torch.allclose(cell(x, condition), x + cell.block(h, condition), atol=1e-6)
    pointers = [parameter.data_ptr() for parameter in Diffit3d(shape).parameters()]
    assert len(pointers) == len(set(pointers))
    levels = Diffit3d(shape).down
    assert [len(level) for level in levels] == [3, 3]


def test_a_patch_of_two_loses_no_voxel() -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    assert to_depth(x, 2).shape == (2, 24, 2, 3, 4)
    assert torch.equal(to_space(to_depth(x, 2), 2), x)


@pytest.mark.parametrize("in_attention", [True, False])
def test_checkpointing_and_batches_change_nothing(in_attention: bool) -> None:
    plain = shaken(Diffit3d(DiffitShape(width=16, multiples=(1, 2), label_in_attention=in_attention)))
    saving = Diffit3d(DiffitShape(width=16, multiples=(1, 2), label_in_attention=in_attention, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    x, noise = torch.randn(2, 1, 8, 4, 4), torch.tensor([0.1, -0.4])
    label = label_channels(torch.randint(0, 2, (2, 8, 4, 4)), 2)
    found = plain(x, noise, label)
    assert torch.allclose(saving(x, noise, label), found, atol=1e-6)
    assert torch.allclose(plain(x[1:], noise[1:], label[1:]), found[1:], atol=1e-5)
    gradients = []
    for network in (plain, saving):
        network(x, noise, label).square().sum().backward()
        gradients.append(network.stem.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_body_may_be_bfloat16_while_the_scaling_stays_float32() -> None:
    denoiser = Denoiser(shaken(Diffit3d(SMALL)), 1.0)
    label = label_channels(torch.zeros(1, 8, 8, 8, dtype=torch.int64), 3)
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = denoiser(x, torch.tensor([0.01]), label)
    assert low.dtype == torch.float32
    assert torch.allclose(low, denoiser(x, torch.tensor([0.01]), label), atol=1e-3)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match="class 3; the generator has 3 classes"):
        label_channels(torch.full((1, 4, 4, 4), 3), 3)
    with pytest.raises(ConfigError, match="sides that 2 divides"):
        Diffit3d(SMALL)(torch.zeros(1, 1, 7, 8, 8), torch.zeros(1), torch.zeros(1, 4, 7, 8, 8))
    with pytest.raises(ConfigError, match="sigma_data"):
        build_diffit(sigma_data=0.0)
    with pytest.raises(ConfigError, match="multiple of head_width"):
        build_diffit(sigma_data=1.0, width=20)
