"""Mixers around the selective scan, against their definitions: MambaVision, Mamba, Vim, SegMamba, PlainMamba, MHS-VM."""

import pytest
import torch
from torch import Tensor

from medseg.networks import build_network
from medseg.networks.mixers.mambavision import MambaVisionMixer
from medseg.networks.mixers.multi_head_scan import MultiHeadScan
from medseg.networks.mixers.selective_scan import SelectiveScan
from medseg.networks.recipe import Replace, TokensOrChannels
from tests.networks.agreement import (
    OnTokens,
    Weights,
    assert_agrees,
    layer_norm,
    linear,
    per_window,
    silu,
    site,
    softplus,
    stage,
    under,
)


def scan(u: Tensor, dt: Tensor, rate: Tensor, write: Tensor, read: Tensor, skip: Tensor) -> Tensor:
    """h_t = exp(dt A) h_(t-1) + dt B u;  y = C h + D u.  u, dt (B, N, C); rate (C, S); write, read (B, N, S)."""
    state = torch.zeros(u.shape[0], u.shape[2], rate.shape[1], dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        state = torch.exp(dt[:, t, :, None] * rate) * state + (dt[:, t] * u[:, t])[:, :, None] * write[:, t, None, :]
        outputs.append((state * read[:, t, None, :]).sum(-1) + skip * u[:, t])
    return torch.stack(outputs, 1)


def convolve(taps: Tensor, x: Tensor, before: int) -> Tensor:
    """y_t = sum_j taps_j x_(t + j - before) with zeros outside; x (B, N, C), taps (C, K)."""
    count = x.shape[1]
    total = torch.zeros_like(x)
    for j in range(taps.shape[1]):
        for t in range(count):
            source = t + j - before
            if 0 <= source < count:
                total = total + torch.nn.functional.one_hot(torch.tensor(t), count)[None, :, None] * (
                    taps[:, j] * x[:, source]
                ).unsqueeze(1)
    return total


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_mambavision_mixer_concatenates_a_scanned_and_a_convolved_half(times: float) -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        def window(tokens: Tensor) -> Tensor:
            u, z = silu(convolve(p["mixer.taps"], linear(p, "mixer.project_in", tokens), 1)).chunk(2, -1)
            low, write, read = linear(p, "mixer.project_scan", u).split([1, 8, 8], -1)
            dt = softplus(low @ p["mixer.project_dt.weight"].T + times * p["mixer.project_dt.bias"])
            y = scan(u, dt, -torch.exp(p["mixer.log_rate"]), write, read, p["mixer.skip"])
            return linear(p, "mixer.project_out", torch.cat([y, z], -1))

        return per_window(x.squeeze(3), 3, window).unsqueeze(3)

    mixer = MambaVisionMixer(site(8, window=3), dt_bias_scale=times)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, 6, 9, 1, 8))


def one_direction(p: Weights, u: Tensor, index: int, taps: int) -> Tensor:
    """Mamba's inner part over a sequence (B, N, C): causal convolution, SiLU, projections, scan; parameter set `index`."""
    u = silu(convolve(p["taps"][taps], u, p["taps"].shape[-1] - 1) + p["taps_bias"][taps])
    rank = p["project_dt"].shape[2]
    state = p["log_rate"].shape[2]
    low, write, read = (u @ p["project_scan"][index].T).split([rank, state, state], -1)
    dt = softplus(low @ p["project_dt"][index].T + p["step_bias"][index])
    return scan(u, dt, -torch.exp(p["log_rate"][index]), write, read, p["skip"][index])


def interslice(sides: tuple[int, int]) -> list[int]:
    """The raster index cut into slices along X, then slice after slice for each position: the slice index is fastest."""
    return [x * sides[1] + y for y in range(sides[1]) for x in range(sides[0])]


@pytest.mark.parametrize(
    ("name", "traversals", "merge"),
    [
        ("mamba", ("raster",), "sum"),
        ("vim", ("raster", "reversed raster"), "mean"),
        ("segmamba", ("raster", "reversed raster", "interslice"), "sum"),
    ],
)
def test_scan_along_several_orders_with_parameters_of_their_own(name: str, traversals: tuple, merge: str) -> None:
    sides = (3, 5)
    count = sides[0] * sides[1]
    orders = [list(range(count)), list(reversed(range(count))), interslice(sides)][: len(traversals)]

    def formula(p: Weights, x: Tensor) -> Tensor:
        p = under(p, "mixer.")
        u, z = linear(p, "project_in", x.flatten(1, 3)).chunk(2, -1)
        total = torch.zeros_like(u)
        for index, order in enumerate(orders):
            y = one_direction(p, u[:, order], index, index)
            total = total + y[:, torch.tensor(order).argsort()] * silu(z)  # every direction by the gate, then the sum
        total = total / len(orders) if merge == "mean" else total
        return linear(p, "project_out", total).reshape(x.shape)

    mixer = SelectiveScan(site(6), state=4, traversals=traversals, separate=len(traversals) > 1, merge=merge)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, *sides, 1, 6))


@pytest.mark.parametrize("grid", [(2, 3), (3, 3)])
def test_channels_are_the_tokens_where_the_map_has_no_more_tokens_than_channels(grid: tuple[int, int]) -> None:
    """U-Mamba: a norm and a scan in the place of the map, along 8 channels of 6 voxels, or along 9 voxels of 8 channels."""
    count = grid[0] * grid[1]

    def formula(p: Weights, image: Tensor) -> Tensor:
        p = under(p, "layers.0.layer." if count <= 8 else "layers.0.")
        x = image.flatten(2) if count <= 8 else image.flatten(2).transpose(1, 2)
        u, z = linear(p, "mixer.project_in", layer_norm(p, "norm", x)).chunk(2, -1)
        y = linear(p, "mixer.project_out", one_direction(under(p, "mixer."), u, 0, 0) * silu(z))
        return (y if count <= 8 else y.transpose(1, 2)).reshape(image.shape)

    layers = (TokensOrChannels(Replace("selective_scan")),)
    made = stage(site(8, grid=grid), layers, {"selective_scan": {"state": 4}})
    assert_agrees(made, formula, torch.randn(2, 8, *grid))


def test_weights_of_channel_tokens_belong_to_one_patch() -> None:
    made = stage(site(8, grid=(2, 3)), (TokensOrChannels("mlstm"),))
    with pytest.raises(AssertionError, match="only patches of roi_size"):
        made(torch.randn(1, 8, 3, 3))
    network = build_network("xlstm_unet", size="published", spatial_dims=2, roi_size=[64, 96])
    assert network.configuration["roi_size"] == [64, 96]
    assert network(torch.randn(1, 1, 64, 96)).shape == (1, 2, 64, 96)


def on_meta(preset: str, roi_size: list[int]) -> list[torch.nn.Module]:
    with torch.device("meta"):
        return list(build_network(preset, size="published", spatial_dims=3, roi_size=roi_size).encoder.levels)


def kinds(level: torch.nn.Module) -> list[str]:
    """Names of the classes of a level's sub-layers, seen through their wrappers."""
    names = []
    for layer in level.body.layers:
        names.append(type(getattr(layer, "block", layer)).__name__)
        if hasattr(layer, "layer"):
            names.append(type(layer.layer).__name__)
    return names


def test_umamba_and_xlstm_unet_have_the_blocks_of_their_release() -> None:
    """Two blocks a stage and one in the deeper half, the entry among them; the stem has as many as the first stage."""
    two, one = ["ResidualConv"], []
    stem = ["ResidualConv", "BasicResidual", "ResidualConv"]
    scan, channels = ["Replacing"], ["OnChannels", "Replacing"]
    found = [kinds(level) for level in on_meta("umamba_enc", [128, 128, 128])]
    assert found == [stem + scan, two + scan, two + scan, one + scan, one + scan, one + channels]
    assert [kinds(level) for level in on_meta("umamba_bot", [128, 128, 128])] == [stem, two, two, one, one, scan]
    vil = ["Residual"]
    found = [kinds(level) for level in on_meta("xlstm_unet", [128, 128, 128])]
    assert found == [stem + two, two + two, two + two, vil, vil, ["OnChannels", "Residual"]]


def snake(sides: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows that turn round."""
    return [(x, y if x % 2 == 0 else sides[1] - 1 - y) for x in range(sides[0]) for y in range(sides[1])]


def step_kind(before: tuple[int, int] | None, here: tuple[int, int]) -> int:
    """0 start; 1, 2 along X forwards and back; 3, 4 along Y."""
    if before is None:
        return 0
    step = (here[0] - before[0], here[1] - before[1])
    return {(1, 0): 1, (-1, 0): 2, (0, 1): 3, (0, -1): 4}[step]


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_plainmamba_shares_everything_between_four_snakes_but_the_steps_direction(times: float) -> None:
    sides = (4, 3)
    rows = snake(sides)
    columns = [(x, y) for y, x in snake((sides[1], sides[0]))]
    routes = [rows, rows[::-1], columns, columns[::-1]]

    def formula(p: Weights, x: Tensor) -> Tensor:
        p = under(p, "mixer.")
        u, z = linear(p, "project_in", x[:, :, :, 0]).chunk(2, -1)
        u = silu(neighbours(p["taps"][..., 0], u) + p["taps_bias"])
        low, write, read = (u @ p["project_scan"][0].T).split([1, 4, 4], -1)
        dt = softplus(low @ p["project_dt"][0].T + times * p["step_bias"][0])
        total = torch.zeros_like(u)
        for route in routes:
            xs, ys = [c[0] for c in route], [c[1] for c in route]
            kinds = [step_kind(a, b) for a, b in zip([None, *route[:-1]], route, strict=True)]
            write_route = write[:, xs, ys] + p["step_write"][kinds]
            rate = -torch.exp(p["log_rate"][0])
            y = scan(u[:, xs, ys], dt[:, xs, ys], rate, write_route, read[:, xs, ys], p["skip"][0])
            back = [route.index((i, j)) for i in range(sides[0]) for j in range(sides[1])]
            total = total + y[:, back].unflatten(1, list(sides))
        return linear(p, "project_out", total * silu(z)).unsqueeze(3)

    mixer = SelectiveScan(
        site(6), state=4, kernel=3, local_mix="grid", step_write=True, dt_bias_scale=times,
        traversals=("snake", "reversed snake", "snake:YXZ", "reversed snake:YXZ"),
    )  # fmt: skip
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, *sides, 1, 6))


def neighbours(taps: Tensor, x: Tensor) -> Tensor:
    """Depthwise convolution of (B, X, Y, C) with taps (C, kx, ky), zeros outside."""
    reach = taps.shape[1] // 2
    padded = torch.nn.functional.pad(x, [0, 0, reach, reach, reach, reach])
    total = torch.zeros_like(x)
    for i in range(taps.shape[1]):
        for j in range(taps.shape[2]):
            total = total + taps[:, i, j] * padded[:, i : i + x.shape[1], j : j + x.shape[2]]
    return total


def test_multi_head_scan_damps_tokens_on_which_the_routes_agree() -> None:
    sides = (4, 3)
    raster = [(x, y) for x in range(sides[0]) for y in range(sides[1])]
    columns = [(x, y) for y in range(sides[1]) for x in range(sides[0])]
    turning = [(x, y) for y, x in snake((sides[1], sides[0]))]
    families = ((raster, snake(sides)), (columns, turning))

    def formula(p: Weights, x: Tensor) -> Tensor:
        p = under(p, "mixer.")
        u, z = linear(p, "project_in", x[:, :, :, 0]).chunk(2, -1)
        u = silu(neighbours(p["mix.weight"][..., 0], u) + p["mix.bias"])
        low, write, read = linear(p, "project_scan", u).split([1, 8, 8], -1)
        dt = softplus(low @ p["project_dt"].T + p["step_bias"])
        fused = []
        for head, family in enumerate(families):
            part = slice(4 * head, 4 * head + 4)
            states = slice(4 * head, 4 * head + 4)
            routes = []
            for route in (*family, *(route[::-1] for route in family)):
                xs, ys = [c[0] for c in route], [c[1] for c in route]
                y = scan(
                    u[:, xs, ys, part], dt[:, xs, ys, part], -torch.exp(p["log_rate"][part]),
                    write[:, xs, ys, states], read[:, xs, ys, states], p["skip"][part],
                )  # fmt: skip
                back = [route.index(place) for place in raster]
                routes.append(y[:, back].unflatten(1, list(sides)))
            y = torch.stack(routes)
            spread = torch.sqrt(((y - y.mean(0)) ** 2).mean(0) + 1e-12)
            variation = spread / ((y - y.amin(0)).mean(0) + 1e-5)
            fused.append(y.sum(0) * torch.relu(variation - 0.1))
        out = layer_norm(p, "norm", torch.cat(fused, -1)) * silu(z)
        return linear(p, "project_out", out).unsqueeze(3)

    mixer = MultiHeadScan(site(8, num_heads=2), state=4, threshold=0.1)
    # in float64 on both sides: where the routes differ little, the division by their spread amplifies rounding
    assert_agrees(OnTokens(mixer).double(), formula, torch.randn(2, *sides, 1, 8, dtype=torch.float64), exact_to=1e-6)
