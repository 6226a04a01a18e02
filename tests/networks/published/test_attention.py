"""Attention blocks against their definitions: Swin, MaxViT, CSWin, axial, sliding, GC ViT, FasterViT, DiffiT, full."""

import math

import pytest
import torch
from torch import Tensor

from medseg.networks import PRESETS, build_network
from medseg.networks.mixers.full_attention import FullAttention
from medseg.networks.mixers.time_attention import TimeAttention
from medseg.networks.mixers.window_attention import AxialAttention, SlidingWindowAttention, StripeAttention
from tests.networks.agreement import (
    OnTokens,
    Weights,
    assert_agrees,
    conv2d,
    gelu,
    gelu_tanh,
    layer_norm,
    linear,
    per_window,
    silu,
    site,
    stage,
    under,
)
from tests.networks.published.dense import SIDE, attend


def relative_bias(table: Tensor, sides: tuple[int, int]) -> Tensor:
    """Swin's table ((2 w - 1)^2, H) read for every pair of tokens, the last axis fastest: (H, T, T)."""
    places = [(i, j) for i in range(sides[0]) for j in range(sides[1])]
    rows = [
        [(a - c + sides[0] - 1) * (2 * sides[1] - 1) + (b - d + sides[1] - 1) for c, d in places] for a, b in places
    ]
    return table[torch.tensor(rows)].permute(2, 0, 1)


def mlp(p: Weights, name: str, x: Tensor) -> Tensor:
    """Two linear maps around the exact GELU."""
    return linear(p, f"{name}.reduce", gelu(linear(p, f"{name}.expand", x)))


def swin(p: Weights, x: Tensor, heads: int, shift: int) -> Tensor:
    """(Shifted) window attention of (B, X, Y, C): roll, attend within windows and regions, roll back."""
    bias = relative_bias(p["table"], (SIDE, SIDE))
    qkv = linear(p, "qkv", x)
    region = torch.zeros(x.shape[1], x.shape[2], dtype=torch.float64)
    if shift:
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                wrapped = (i >= x.shape[1] - shift, j >= x.shape[2] - shift)  # came round from the other side
                region[i, j] = 1 + 2 * wrapped[0] + wrapped[1]
    both = torch.cat([torch.roll(qkv, (-shift, -shift), (1, 2)), region.expand(x.shape[0], -1, -1).unsqueeze(-1)], -1)

    def window(tokens: Tensor) -> Tensor:
        place = tokens[0, :, -1]
        apart = torch.where(place[:, None] == place, 0.0, -torch.inf)
        return attend(tokens[..., :-1], heads, bias + apart)

    y = torch.roll(per_window(both, SIDE, window), (shift, shift), (1, 2))
    return linear(p, "project", y)


def blocks(p: Weights, image: Tensor, mixers: list, eps: float = 1e-5) -> Tensor:
    """Mixer, MLP, mixer, MLP ... each behind a norm and beside a shortcut; (B, C, X, Y) in and out."""
    x = image.permute(0, 2, 3, 1)
    for index, mixer in enumerate(mixers):
        first, second = f"layers.{2 * index}.", f"layers.{2 * index + 1}."
        x = x + mixer(under(p, f"{first}mixer."), layer_norm(p, f"{first}norm", x, eps))
        x = x + mlp(p, f"{second}mixer", layer_norm(p, f"{second}norm", x, eps))
    return x.permute(0, 3, 1, 2)


def test_swin_pair_shifts_every_second_block() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        return blocks(p, image, [lambda q, x: swin(q, x, 2, 0), lambda q, x: swin(q, x, 2, 1)])

    place = site(8, num_heads=2, window=SIDE)
    pair = stage(place, ("window_attention", "mlp", "shifted_window_attention", "mlp"))
    assert_agrees(pair, formula, torch.randn(2, 8, 6, 9))


def test_mambavision_attention_has_no_position_term() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        def plain(q: Weights, x: Tensor) -> Tensor:
            y = per_window(linear(q, "qkv", x), SIDE, lambda tokens: attend(tokens, 2))
            return linear(q, "project", y)

        return blocks(p, image, [plain])

    place = site(8, num_heads=2, window=SIDE)
    block = stage(place, ("window_attention", "mlp"), {"window_attention": {"bias": "none"}})
    assert_agrees(block, formula, torch.randn(2, 8, 6, 9))


def test_grid_attention_joins_tokens_that_lie_evenly_over_the_map() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        def grid(q: Weights, x: Tensor) -> Tensor:
            bias = relative_bias(q["table"], (SIDE, SIDE))
            qkv, out = linear(q, "qkv", x), torch.zeros_like(x)
            jump = (x.shape[1] // SIDE, x.shape[2] // SIDE)
            for i in range(jump[0]):
                for j in range(jump[1]):
                    part = qkv[:, i :: jump[0], j :: jump[1]]
                    y = attend(part.flatten(1, 2), 2, bias).unflatten(1, [SIDE, SIDE])
                    mask = torch.zeros(x.shape[1:3], dtype=x.dtype)
                    mask[i :: jump[0], j :: jump[1]] = 1
                    spread = y.repeat_interleave(jump[0], 1).repeat_interleave(jump[1], 2)
                    out = out + spread * mask.unsqueeze(-1)
            return linear(q, "project", out)

        return blocks(p, image, [lambda q, x: swin(q, x, 2, 0), grid])

    place = site(8, num_heads=2, window=SIDE)
    pair = stage(place, ("window_attention", "mlp", "grid_attention", "mlp"))
    assert_agrees(pair, formula, torch.randn(2, 8, 6, 9))


@pytest.mark.parametrize("kind", ["stripe", "axial"])
def test_half_of_the_heads_attends_along_each_axis(kind: str) -> None:
    thickness = 2 if kind == "stripe" else 1

    def formula(p: Weights, x: Tensor) -> Tensor:
        p, x = under(p, "mixer."), x.squeeze(3)
        q, k, v = (t.chunk(2, -1) for t in linear(p, "qkv", x).chunk(3, -1))
        parts = []
        for axis in range(2):
            qkv = torch.cat([q[axis], k[axis], v[axis]], -1)
            bars = qkv.split(thickness, 2 - axis)  # bars run along `axis`, so they are cut along the other one
            rows = [attend(bar.flatten(1, 2), 2).unflatten(1, bar.shape[1:3]) for bar in bars]
            parts.append(torch.cat(rows, 2 - axis))
        y = torch.cat(parts, -1)
        if kind == "stripe":  # locally enhanced positions: a depthwise convolution of the values
            y = y + conv2d(p, "local", torch.cat(v, -1).permute(0, 3, 1, 2), groups=8).permute(0, 2, 3, 1)
        return linear(p, "project", y).unsqueeze(3)

    place = site(8, num_heads=4, window=thickness)
    mixer = StripeAttention(place) if kind == "stripe" else AxialAttention(place)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, 4, 6, 1, 8))


def test_sliding_window_sees_only_the_tokens_within_its_radius() -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        p, sides = under(p, "mixer."), (4, 5)
        places = [(i, j) for i in range(sides[0]) for j in range(sides[1])]
        far = [[0.0 if abs(a - c) <= 1 and abs(b - d) <= 1 else -math.inf for c, d in places] for a, b in places]
        mask = torch.tensor(far, dtype=x.dtype).expand(2, -1, -1)
        return linear(p, "project", attend(linear(p, "qkv", x.flatten(1, 3)), 2, mask)).reshape(x.shape)

    mixer = SlidingWindowAttention(site(8, num_heads=2, window=3), radius=1)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, 4, 5, 1, 8))


@pytest.mark.parametrize("key_heads", [4, 2])
def test_full_attention_may_share_keys_between_heads(key_heads: int) -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        p, tokens = under(p, "mixer."), x.flatten(1, 3)
        k, v = linear(p, "key_value", tokens).chunk(2, -1)
        k, v = (t.unflatten(-1, [key_heads, 2]).repeat_interleave(4 // key_heads, 2).flatten(2) for t in (k, v))
        return linear(p, "project", attend(torch.cat([linear(p, "query", tokens), k, v], -1), 4)).reshape(x.shape)

    mixer = FullAttention(site(8, num_heads=4), key_heads=key_heads)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, 4, 5, 1, 8))


@pytest.mark.parametrize("window", [SIDE, None])
def test_time_enters_queries_keys_and_values_and_nothing_else(window: int | None) -> None:
    def formula(p: Weights, x: Tensor, condition: Tensor) -> Tensor:
        p = under(p, "mixer.")
        qkv = linear(p, "spatial", x.squeeze(3)) + linear(p, "temporal", condition)[:, None, None]
        if window is None:
            y = attend(qkv.flatten(1, 2), 2).unflatten(1, x.shape[1:3])
        else:
            y = per_window(qkv, SIDE, lambda tokens: attend(tokens, 2, relative_bias(p["table"], (SIDE, SIDE))))
        return linear(p, "project", y).unsqueeze(3)

    mixer = TimeAttention(site(8, num_heads=2, window=window, condition_width=5))
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, 6, 9, 1, 8), torch.randn(2, 5))


def test_diffit_block_norms_without_gain_and_uses_the_tanh_gelu() -> None:
    def formula(p: Weights, image: Tensor, condition: Tensor) -> Tensor:
        x = image.permute(0, 2, 3, 1)
        q = under(p, "layers.0.mixer.")
        qkv = linear(q, "spatial", layer_norm({}, "", x, 1e-6)) + linear(q, "temporal", condition)[:, None, None]
        y = per_window(qkv, SIDE, lambda tokens: attend(tokens, 2, relative_bias(q["table"], (SIDE, SIDE))))
        x = x + linear(q, "project", y)
        hidden = gelu_tanh(linear(p, "layers.1.mixer.expand", layer_norm({}, "", x, 1e-6)))
        return (x + linear(p, "layers.1.mixer.reduce", hidden)).permute(0, 3, 1, 2)

    place = site(8, num_heads=2, window=SIDE, condition_width=5, token_norm="layer_plain", token_norm_eps=1e-6)
    block = stage(place, ("time_attention", "mlp"), {"mlp": {"act": "gelu_tanh"}})
    assert_agrees(block, formula, torch.randn(2, 8, 6, 9), torch.randn(2, 5))


def squeeze_excite(p: Weights, image: Tensor) -> Tensor:
    """Channel gate from the mean over the map, without biases."""
    gate = linear(p, "expand", gelu(linear(p, "reduce", image.mean((2, 3)))))
    return image * torch.sigmoid(gate)[:, :, None, None]


def fused_mbconv(p: Weights, image: Tensor) -> Tensor:
    """GC ViT's residual block."""
    branch = gelu(conv2d(p, "depthwise", image, groups=image.shape[1]))
    return image + conv2d(p, "pointwise", squeeze_excite(under(p, "squeeze."), branch))


@pytest.mark.parametrize(("sides", "steps"), [((6, 12), 2), ((3, 3), 1)])
def test_gcvit_queries_every_window_with_one_global_query(sides: tuple[int, int], steps: int) -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        query = image
        for step in range(steps):
            query = fused_mbconv(under(p, f"prepare.0.blocks.{step}."), query)
            for axis in (2, 3):  # max pooling of 3 with stride 2, axis by axis, until a window is left
                if query.shape[axis] > SIDE:
                    length = query.shape[axis]
                    padded = torch.full_like(query.narrow(axis, 0, 1), -math.inf)
                    padded = torch.cat([padded, query, padded], axis)
                    places = torch.arange(0, length, 2)
                    three = [padded.index_select(axis, places + k) for k in range(3)]
                    query = torch.stack(three).amax(0)
        assert query.shape[2:] == (SIDE, SIDE)
        shared = query.permute(0, 2, 3, 1).flatten(1, 2)

        def ask(q: Weights, x: Tensor) -> Tensor:
            kv = linear(q, "key_value", x)
            bias = relative_bias(q["table"], (SIDE, SIDE))
            y = per_window(kv, SIDE, lambda tokens: attend(torch.cat([shared, tokens], -1), 2, bias))
            return linear(q, "project", y)

        return blocks(p, image, [lambda q, x: swin(q, x, 2, 0), ask])

    place = site(8, num_heads=2, window=SIDE)
    layers = ("window_attention", "mlp", "global_query_attention", "mlp")
    pair = stage(place, layers, {"global_query_attention": {"steps": steps}, "mlp": {"ratio": 3.0}})
    assert_agrees(pair, formula, torch.randn(2, 8, *sides))


@pytest.mark.parametrize("sides", [(4, 7), (11, 3)])
def test_gcvit_in_dense_use_fills_up_windows_and_resizes_its_query(sides: tuple[int, int]) -> None:
    """Windows of 5 on a map that one axis of is shorter: zeros behind the norm take part; the query is pooled once."""
    side, near = 5, torch.nn.functional

    def fill(x: Tensor) -> Tensor:
        return near.pad(x, [0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side])

    def formula(p: Weights, image: Tensor) -> Tensor:
        query = near.max_pool2d(fused_mbconv(under(p, "prepare.0.blocks.0."), image), 3, 2, 1)
        query = near.interpolate(query, (side, side), mode="bicubic", align_corners=False)
        shared = query.permute(0, 2, 3, 1).flatten(1, 2)

        def local(q: Weights, x: Tensor) -> Tensor:
            bias = relative_bias(q["table"], (side, side))
            y = per_window(linear(q, "qkv", fill(x)), side, lambda tokens: attend(tokens, 2, bias))
            return linear(q, "project", y)[:, : x.shape[1], : x.shape[2]]

        def ask(q: Weights, x: Tensor) -> Tensor:
            bias = relative_bias(q["table"], (side, side))
            kv = linear(q, "key_value", fill(x))
            y = per_window(kv, side, lambda tokens: attend(torch.cat([shared, tokens], -1), 2, bias))
            return linear(q, "project", y)[:, : x.shape[1], : x.shape[2]]

        return blocks(p, image, [local, ask])

    place = site(8, num_heads=2, window=side, padding="published")
    layers = ("window_attention", "mlp", "global_query_attention", "mlp")
    options = {"global_query_attention": {"steps": 1}, "mlp": {"ratio": 3.0}, "window_attention": {"fill": True}}
    assert_agrees(stage(place, layers, options), formula, torch.randn(2, 8, *sides))


def test_every_published_size_of_gcvit_fills_its_windows_up() -> None:
    for size in ("xxt", "l"):
        network = build_network("gcvit", size=size, spatial_dims=2, padding="published") if size == "xxt" else None
        levels = PRESETS["gcvit"].build(size, 2).levels[2:]
        assert [level.options["global_query_attention"]["pools"] for level in levels] == [3, 2, 1, 0]
        assert all(level.options["window_attention"]["fill"] for level in levels)
        if network is not None:
            assert network(torch.randn(1, 1, 32, 64)).shape == (1, 2, 32, 64)


def test_swiglu_gates_the_hidden_channels() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        x = image.permute(0, 2, 3, 1)
        y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * p["layers.0.norm.weight"]
        gate, value = linear(p, "layers.0.mixer.expand", y).chunk(2, -1)
        return (x + linear(p, "layers.0.mixer.reduce", silu(gate) * value)).permute(0, 3, 1, 2)

    assert_agrees(stage(site(8, token_norm="rms"), ("swiglu",)), formula, torch.randn(2, 8, 4, 5))
