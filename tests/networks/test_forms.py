"""Every linear mixer computes the same in parallel, in chunks and step by step, with a state handed over, at odd lengths."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medseg.networks.contract import Context
from medseg.networks.mixers import MIXERS
from medseg.networks.mixers.parts import wide
from medseg.networks.mixers.retention import Retention
from medseg_kernels import gated_delta_rule, gla, mlstm, retention, selective_scan_with_state, ssd
from tests.networks.agreement import OnTokens, randomise, site

OPTIONS: dict[str, dict] = {
    "ssd": {"state": 6, "head_channels": 6},
    "selective_scan": {"traversals": ("raster", "reversed raster"), "separate": True, "state": 4},
    "retention": {"order": "raster"},
}
LINEAR = ["mambavision", "selective_scan", "multi_head_scan", "ssd", "retention", "gla", "gated_delta", "mlstm"]


@pytest.mark.parametrize("grid", [(1, 1, 1), (7, 1, 1), (5, 13, 1), (3, 5, 9)], ids=str)
@pytest.mark.parametrize("name", LINEAR)
def test_mixer_steps_as_it_runs_in_chunks(name: str, grid: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mixer = randomise(OnTokens(MIXERS[name](site(12, dims=3, num_heads=3), **OPTIONS.get(name, {}))))
    x = torch.randn(2, *grid, 12)
    with torch.no_grad():
        fast = mixer(x)
        chunked = torch.jit.trace(mixer, x, check_trace=False)(x)
        monkeypatch.setenv("MEDSEG_BACKEND", "reference")
        steps = mixer(x)
    # where the routes of a multi-head scan agree, the division by their spread amplifies rounding
    tolerance = 1e-3 if name == "multi_head_scan" else 2e-5
    for found in (fast, chunked):
        assert (found - steps).abs().max() <= tolerance * steps.abs().max().clamp(min=1.0)


def cut(operator: Callable[..., tuple], inputs: list[Tensor], place: int) -> None:
    """The whole sequence equals its first part followed by the rest with the state handed over."""
    whole, last = operator(inputs, None)
    first, state = operator([x[:, :place] for x in inputs], None)
    second, end = operator([x[:, place:] for x in inputs], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-4, atol=1e-5)


def sequence(*channels: int) -> Tensor:
    return torch.randn(2, 71, *channels)


@pytest.mark.parametrize("place", [1, 7, 64, 70])
def test_a_sequence_may_be_cut_anywhere(place: int) -> None:
    torch.manual_seed(0)
    q, k, v = sequence(3, 4), sequence(3, 4), sequence(3, 5)
    fade, rate = -torch.rand(2, 71, 3), -torch.rand(3)
    unit = k / k.norm(dim=-1, keepdim=True)
    cut(lambda x, s: retention(x[0], x[1], x[2], rate, initial_state=s), [q, k, v], place)
    cut(lambda x, s: gla(*x, initial_state=s), [q, k, v, -torch.rand(2, 71, 3, 4)], place)
    cut(lambda x, s: gated_delta_rule(*x, initial_state=s), [q, unit, v, fade, torch.rand(2, 71, 3)], place)
    cut(lambda x, s: ssd(x[0], x[1], rate, x[2], x[3], initial_state=s), [v, -fade, k[:, :, :1], q[:, :, :1]], place)
    cut(lambda x, s: mlstm(*x, initial_state=s), [q, k, v, sequence(3), sequence(3) + 3], place)


@pytest.mark.parametrize("place", [1, 7, 64, 70])
def test_a_scan_may_be_cut_anywhere(place: int) -> None:
    torch.manual_seed(0)

    def scan(x: list[Tensor], state: Tensor | None) -> tuple[Tensor, Tensor]:
        u, dt, write, read = (part[:, :, None, None] for part in x)
        y, last = selective_scan_with_state(u, dt, -rate, write, read, initial_state=state)
        return y[:, :, 0, 0], last

    rate = torch.rand(6, 4) + 0.1
    cut(scan, [sequence(6), torch.rand(2, 71, 6), sequence(4), sequence(4)], place)


GRID = (5, 4, 6)


def weights(order: str, decay: Tensor, powers: tuple[float, ...]) -> Tensor:
    """(H, N, N) written out from the definition; `powers` of the decay per axis."""
    places = torch.cartesian_prod(*(torch.arange(side) for side in GRID)).double()
    step = places[:, None] - places[None]
    log = decay.double().reshape(-1, 1, 1)
    far = torch.exp((step.abs() * torch.tensor(powers, dtype=torch.double)).sum(-1) * log)
    ahead, behind = (step >= 0).all(-1), (step <= 0).all(-1)
    if order == "symmetric":
        return far
    pair = ahead | behind if order == "octant_pair" else ahead
    return far * pair


@pytest.mark.parametrize("decay", ["fixed", "mm", "learned"])
@pytest.mark.parametrize("order", ["octant", "octant_pair", "symmetric"])
def test_retention_by_planes_equals_its_mask_written_out(order: str, decay: str) -> None:
    torch.manual_seed(0)
    spacing = (1.0, 0.5, 3.0)
    mixer = Retention(
        site(12, dims=3, num_heads=3), order=order, decay=decay, out_norm="none",
        spacing_mm=spacing if decay == "mm" else None,
    )  # fmt: skip
    randomise(mixer)
    x = torch.randn(2, *GRID, 12, requires_grad=True)
    found = mixer.double()(x.double(), Context())[0]
    constants = torch.log1p(-torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), 3, dtype=torch.double)))
    log = constants if mixer.log_rate is None else -torch.exp(mixer.log_rate)
    q, k, v = mixer.qkv(x.double().flatten(1, 3)).unflatten(-1, [3, 3, 4]).unbind(2)
    scores = torch.einsum("bnhe,bmhe->bhnm", q, k) / 2 * weights(order, log, spacing if decay == "mm" else (1, 1, 1))
    y = mixer.project(torch.einsum("bhnm,bmhe->bnhe", scores, v).flatten(2)).reshape(found.shape)
    torch.testing.assert_close(found, y, rtol=1e-10, atol=1e-10)
    seed = torch.randn_like(y)
    inputs = [x, *mixer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, seed), torch.autograd.grad(y, inputs, seed), rtol=1e-9, atol=1e-9
    )


def test_retention_in_mm_with_the_reference_spacing_is_the_default_bit_for_bit() -> None:
    place = site(12, dims=3, num_heads=3)
    plain, scaled = Retention(place), Retention(place, decay="mm", spacing_mm=(2.0, 2.0, 2.0), reference_mm=2.0)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(2, *GRID, 12)
    assert torch.equal(plain(x, Context())[0], scaled(x, Context())[0])


def test_twice_the_voxels_at_half_the_spacing_keep_the_weights_in_mm() -> None:
    place = site(12, dims=3, num_heads=3)
    coarse, fine = (Retention(place, decay="mm", out_norm="none", spacing_mm=(1.0, 1.0, mm)) for mm in (1.0, 0.5))
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, *GRID, 12)
    with torch.no_grad():
        coarse.project.bias.zero_()
        fine.project.bias.zero_()
        for mixer in (coarse, fine):
            mixer.qkv.bias.zero_()
        thinned = torch.zeros(1, 5, 4, 12, 12)  # every other voxel, zeros between: they hold no key
        thinned[:, :, :, ::2] = x
        torch.testing.assert_close(fine(thinned, Context())[0][:, :, :, ::2], coarse(x, Context())[0])


def test_retention_sees_its_octant_and_nothing_else() -> None:
    torch.manual_seed(0)
    mixer = Retention(site(12, dims=3, num_heads=3))
    x = torch.randn(1, *GRID, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x, Context())[0][0, 2, 1, 3].sum(), x)
    seen = gradient[0].abs().sum(-1) > 0
    expected = torch.zeros(GRID, dtype=torch.bool)
    expected[:3, :2, :4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("options", [{"out_norm": "concat"}, {"gate": True}], ids=str)
def test_output_norm_and_gate_of_retention(options: dict) -> None:
    torch.manual_seed(0)
    place = site(12, dims=3, num_heads=3)
    mixer = randomise(Retention(place, order="octant", **options))
    bare = Retention(place, order="octant", out_norm="none")
    with torch.no_grad():
        bare.qkv.load_state_dict(mixer.qkv.state_dict())
        bare.project.weight.copy_(torch.eye(12))
        bare.project.bias.zero_()
    x = torch.randn(2, *GRID, 12)
    y = bare(x, Context())[0]
    if options.get("gate"):
        heads = y.unflatten(-1, [3, 4])
        y = (heads / (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight).flatten(-2)
        g = x @ mixer.gate.weight.T
        y = y * g * torch.sigmoid(g)
    else:
        y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    torch.testing.assert_close(mixer(x, Context())[0], mixer.project(wide(y)), rtol=1e-4, atol=1e-5)
