"""FasterViT's hierarchical attention against its formula, written out plainly."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from medseg.networks import PRESETS
from medseg.networks.contract import Context
from medseg.networks.mixers.carrier_attention import CarrierSpread
from tests.networks.agreement import (
    Weights,
    assert_agrees,
    conv2d,
    gelu,
    layer_norm,
    linear,
    site,
    stage,
    under,
)
from tests.networks.published.dense import SIDE, attend


def position(p: Weights, sides: list[int]) -> Tensor:
    """(T, C): absolute positions of a window from coordinates (i - w // 2) / (w // 2)."""
    places = [[(i - w // 2) / max(w // 2, 1) for i, w in zip(place, sides, strict=True)] for place in grid(sides)]
    return linear(p, "second", torch.relu(linear(p, "first", torch.tensor(places, dtype=torch.float64))))


def grid(sides: list[int]) -> list[tuple[int, int]]:
    """Places of a map in raster order."""
    return [(i, j) for i in range(sides[0]) for j in range(sides[1])]


def continuous_bias(p: Weights, sides: list[int]) -> Tensor:
    """(H, T, T): 16 sigmoid of a small network of log-spaced offsets."""
    rows = []
    for a in grid(sides):
        for b in grid(sides):
            offset = [8.0 * (a[axis] - b[axis]) / max(sides[axis] - 1, 1) for axis in (0, 1)]
            rows.append([math.copysign(math.log2(abs(value) + 1) / 3, value) for value in offset])
    hidden = torch.relu(linear(p, "first", torch.tensor(rows, dtype=torch.float64)))
    count = sides[0] * sides[1]
    return (16 * torch.sigmoid(linear(p, "second", hidden))).reshape(count, count, -1).permute(2, 0, 1)


def hierarchical(p: Weights, x: Tensor, carriers: Tensor | None, gains: bool) -> tuple[Tensor, Tensor | None]:
    """One HAT block: x (B, X, Y, C), carriers (B, Xc, Yc, C) on their own raster."""

    def gain(name: str) -> Tensor | float:
        return p[f"{name}.gamma"] if gains else 1.0

    attention, after = under(p, "attention."), under(p, "mlp.")
    spots = position(under(attention, "position."), [SIDE, SIDE]).unflatten(0, [SIDE, SIDE])
    x = x + spots.repeat(x.shape[1] // SIDE, x.shape[2] // SIDE, 1)
    counts = (x.shape[1] // SIDE, x.shape[2] // SIDE)
    tokens = [part for row in x.split(SIDE, 1) for part in row.split(SIDE, 2)]
    bias = continuous_bias(under(attention, "bias."), [SIDE, SIDE])
    extra: list[Tensor] = [x.new_zeros(x.shape[0], 0, x.shape[3])] * len(tokens)
    if carriers is not None:
        a, sides = under(attention, "among."), list(carriers.shape[1:3])
        ct = carriers.flatten(1, 2) + position(under(a, "position."), sides)
        y = attend(linear(a, "qkv", layer_norm(a, "norm", ct)), 2, continuous_bias(under(a, "bias."), sides))
        ct = ct + (a["attention_gain.gamma"] if gains else 1.0) * linear(a, "project", y)
        hidden = gelu(linear(a, "mlp.0", layer_norm(a, "mlp_norm", ct)))
        ct = ct + (a["mlp_gain.gamma"] if gains else 1.0) * linear(a, "mlp.2", hidden)
        rows = ct.unflatten(1, sides).split(sides[0] // counts[0], 1)
        extra = [part.flatten(1, 2) for row in rows for part in row.split(sides[1] // counts[1], 2)]
        bias = torch.nn.functional.pad(bias, [extra[0].shape[1], 0, extra[0].shape[1], 0])  # carriers come first
    done = []
    for ct, window in zip(extra, tokens, strict=True):
        y = torch.cat([ct, window.flatten(1, 2)], 1)
        y = y + gain("attention.gain") * linear(
            attention, "project", attend(linear(attention, "qkv", layer_norm(attention, "norm", y)), 2, bias)
        )
        hidden = gelu(linear(after, "mlp.0", layer_norm(after, "norm", y)))
        done.append(y + gain("mlp.gain") * linear(after, "mlp.2", hidden))
    count = extra[0].shape[1]
    x = join([y[:, count:].unflatten(1, [SIDE, SIDE]) for y in done], counts)
    if carriers is None:
        return x, None
    part = [carriers.shape[1] // counts[0], carriers.shape[2] // counts[1]]
    return x, join([y[:, :count].unflatten(1, part) for y in done], counts)


def join(parts: list[Tensor], counts: tuple[int, int]) -> Tensor:
    """Windows in raster order back to one map."""
    rows = [torch.cat(parts[i * counts[1] : (i + 1) * counts[1]], 2) for i in range(counts[0])]
    return torch.cat(rows, 1)


@pytest.mark.parametrize("per_axis", [0, 2])
@pytest.mark.parametrize("scale", [None, 1e-5], ids=["plain", "scaled"])
@pytest.mark.parametrize("spread", [False, True], ids=["kept", "spread"])
def test_fastervit_blocks_with_and_without_carriers(per_axis: int, scale: float | None, spread: bool) -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        x, carriers = image.permute(0, 2, 3, 1), None
        if per_axis:
            map_ = conv2d(p, "prepare.0.depthwise", image, groups=8)
            for axis in (2, 3):  # means over boxes: stride n // p, length what is left for the last
                parts = per_axis * (map_.shape[axis] // SIDE)
                stride = map_.shape[axis] // parts
                length = map_.shape[axis] - (parts - 1) * stride
                boxes = [map_.narrow(axis, i * stride, length).mean(axis, keepdim=True) for i in range(parts)]
                map_ = torch.cat(boxes, axis)
            carriers = map_.permute(0, 2, 3, 1)
        for block in range(2):
            own = {f"attention.{k}": v for k, v in under(p, f"layers.{2 * block}.").items()}
            own |= {f"mlp.{k}": v for k, v in under(p, f"layers.{2 * block + 1}.").items()}
            x, carriers = hierarchical(own, x, carriers, scale is not None)
        if spread and carriers is not None:  # sizes 3 to 6: each carrier over the nearest tokens of its window
            gain = p["layers.2.among.attention_gain.gamma"] if scale is not None else 1.0
            nearest = [i // SIDE * per_axis + int((i % SIDE) * per_axis / SIDE) for i in range(9)]
            x = x + gain * carriers[:, nearest[:6]][:, :, nearest]
        return x.permute(0, 3, 1, 2)

    place = site(8, num_heads=2, window=SIDE, layer_scale=scale)
    layers = ("carrier_attention", "carrier_mlp") * 2 + (("carrier_spread",) if spread else ())
    module = stage(place, layers, {"carrier_attention": {"per_axis": per_axis}})
    assert_agrees(module, formula, torch.randn(2, 8, 6, 9))


def test_carriers_are_spread_back_in_the_sizes_that_were_published_with_it() -> None:
    for size, expected in {"nano": False, "0": False, "2": False, "3": True, "4": True, "5": True, "6": True}.items():
        names = PRESETS["fastervit"].build(size, 2).levels[-2].layers
        assert (names[-1] == "carrier_spread") == expected


@pytest.mark.parametrize("grid", [(5, 7, 4), (3, 9, 6), (2, 2, 2)])
def test_a_spread_carrier_reaches_its_own_window_only_in_3d(grid: tuple[int, ...]) -> None:
    """Windows of 3, two carriers per axis: token i lies in window i // 3, its carrier is the nearer of the two."""
    spread = CarrierSpread(site(1, dims=3, window=(3, 3, 3)))
    counts = [-(-side // 3) for side in grid]
    sides = [min(3, side) for side in grid]
    carriers = torch.randn(1, *(2 * n for n in counts), 1)
    context = Context(carriers, None, None, None, torch.tensor([0.5]))
    found = spread(torch.zeros(1, *grid, 1), context)[0][0, ..., 0]
    for place in itertools.product(*map(range, grid)):
        spot = [i // w * 2 + (i % w) * 2 // w for i, w in zip(place, sides, strict=True)]
        assert found[place] == 0.5 * carriers[0, *spot, 0]
