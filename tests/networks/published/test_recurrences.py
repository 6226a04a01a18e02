"""Linear recurrences against their definitions, token by token: retention, gated delta, SSD, GLA, mLSTM."""

import math

import pytest
import torch
from torch import Tensor

from medseg.networks.contract import Site
from medseg.networks.mixers.gated_delta import GatedDelta
from medseg.networks.mixers.gla import GatedLinearAttention
from medseg.networks.mixers.mlstm import MLSTM
from medseg.networks.mixers.retention import Retention
from medseg.networks.mixers.ssd import SSD
from medseg_kernels import mlstm
from tests.networks.agreement import (
    OnTokens,
    Weights,
    assert_agrees,
    assert_close,
    gelu,
    layer_norm,
    linear,
    rms_norm,
    silu,
    site,
    softplus,
    stage,
    under,
)

SIDES = (3, 5)


def causal(taps: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """SiLU of the causal depthwise convolution; x (B, N, C), taps (C, K)."""
    size = taps.shape[1]
    padded = torch.cat([torch.zeros_like(x[:, : size - 1]), x], 1)
    y = torch.stack([taps[:, j] * padded[:, j : j + x.shape[1]] for j in range(size)]).sum(0)
    return silu(y if bias is None else y + bias)


def heads(x: Tensor, count: int) -> Tensor:
    """(B, N, C) -> (B, N, H, E)."""
    return x.unflatten(-1, [count, -1])


def retention_weights(count: int) -> Tensor:
    """Decays of the heads, 1 - exp(u), u equally spaced from log(1/32) to log(1/512)."""
    u = [math.log(1 / 32) + h * (math.log(1 / 512) - math.log(1 / 32)) / max(count - 1, 1) for h in range(count)]
    return torch.tensor([1 - math.exp(value) for value in u], dtype=torch.float64)


def retained(p: Weights, x: Tensor, *, normed: bool, raster: bool) -> Tensor:
    """ViR's retention of two heads, with the mask written out for every pair of tokens; x (B, X, Y, 1, C)."""
    q, k, v = (heads(t, 2) for t in linear(p, "qkv", x.flatten(1, 3)).chunk(3, -1))
    g = retention_weights(2)
    count = q.shape[1]
    mask = torch.zeros(2, count, count, dtype=torch.float64)
    for n in range(count):
        for m in range(count):
            (r, c), (s, d) = divmod(n, SIDES[1]), divmod(m, SIDES[1])
            if raster and n >= m:
                mask[:, n, m] = g ** (n - m)
            elif not raster and r >= s and c >= d:
                mask[:, n, m] = g ** ((r - s) + (c - d))
    scores = torch.einsum("bnhe,bmhe->bhnm", q * q.shape[-1] ** -0.5, k) * mask
    y = torch.einsum("bhnm,bmhe->bnhe", scores, v)
    y = rms_norm(p["norm.weight"], y) if normed else y
    return linear(p, "project", y.flatten(2)).reshape(x.shape)


@pytest.mark.parametrize("norm", ["none", "head"])
@pytest.mark.parametrize("order", ["raster", "octant"])
def test_retention_is_a_masked_product_without_softmax(order: str, norm: str) -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        return retained(under(p, "mixer."), x, normed=norm == "head", raster=order == "raster")

    mixer = Retention(site(8, num_heads=2), order=order, out_norm=norm)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, *SIDES, 1, 8))


def test_vir_block_scales_both_branches_and_norms_before_them() -> None:
    def formula(p: Weights, image: Tensor) -> Tensor:
        x = image.permute(0, 2, 3, 1).unsqueeze(3)
        branch = retained(
            under(p, "layers.0.mixer."), layer_norm(p, "layers.0.norm", x, 1e-6), normed=True, raster=False
        )
        x = x + p["layers.0.gain.gamma"] * branch
        hidden = gelu(linear(p, "layers.1.mixer.expand", layer_norm(p, "layers.1.norm", x, 1e-6)))
        x = x + p["layers.1.gain.gamma"] * linear(p, "layers.1.mixer.reduce", hidden)
        return x.squeeze(3).permute(0, 3, 1, 2)

    place = site(8, num_heads=2, token_norm_eps=1e-6, layer_scale=1e-5)
    assert_agrees(stage(place, ("retention", "mlp")), formula, torch.randn(2, 8, *SIDES))


def test_gated_delta_decays_first_then_overwrites() -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        p, tokens = under(p, "mixer."), x.flatten(1, 3)
        q, k, v = (
            heads(causal(p[f"mix_{name}.weight"], linear(p, name, tokens)), 2) for name in ("query", "key", "value")
        )
        q, k = (t / torch.sqrt((t * t).sum(-1, keepdim=True)) for t in (q, k))  # length one, then the scale
        decay = torch.exp(-torch.exp(p["log_rate"]) * softplus(linear(p, "decay", tokens) + p["step_bias"]))
        strength = torch.sigmoid(linear(p, "strength", tokens))
        state, outputs = torch.zeros(x.shape[0], 2, q.shape[-1], v.shape[-1], dtype=x.dtype), []
        for t in range(tokens.shape[1]):
            state = decay[:, t, :, None, None] * state
            answer = torch.einsum("bhkv,bhk->bhv", state, k[:, t])
            write = strength[:, t, :, None] * (v[:, t] - answer)
            state = state + k[:, t].unsqueeze(-1) * write.unsqueeze(-2)
            outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t] * q.shape[-1] ** -0.5))
        y = rms_norm(p["norm.weight"], torch.stack(outputs, 1)) * silu(heads(linear(p, "gate", tokens), 2))
        return linear(p, "project", y.flatten(2)).reshape(x.shape)

    assert_agrees(OnTokens(GatedDelta(site(8, num_heads=2))), formula, torch.randn(2, *SIDES, 1, 8))


@pytest.mark.parametrize("groups", [1, 2])
def test_ssd_gates_before_it_norms(groups: int) -> None:
    inner, state_size = 16, 6

    def formula(p: Weights, x: Tensor) -> Tensor:
        p, tokens = under(p, "mixer."), x.flatten(1, 3)
        z, mixed, dt = linear(p, "project_in", tokens).split([inner, inner + 2 * groups * state_size, 4], -1)
        mixed = causal(p["mix.weight"], mixed, p["mix.bias"])
        u, write, read = mixed.split([inner, groups * state_size, groups * state_size], -1)
        u = heads(u, 4)
        write, read = (heads(t, groups).repeat_interleave(4 // groups, 2) for t in (write, read))
        dt = softplus(dt + p["step_bias"])
        decay = torch.exp(-torch.exp(p["log_rate"]) * dt)
        state, outputs = torch.zeros(x.shape[0], 4, state_size, 4, dtype=x.dtype), []
        for t in range(tokens.shape[1]):
            new = dt[:, t, :, None, None] * write[:, t].unsqueeze(-1) * u[:, t].unsqueeze(-2)
            state = decay[:, t, :, None, None] * state + new
            outputs.append(torch.einsum("bhsv,bhs->bhv", state, read[:, t]) + p["skip"][:, None] * u[:, t])
        y = torch.stack(outputs, 1).flatten(2) * silu(z)
        y = heads(y, groups)
        y = (y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-5)).flatten(2) * p["gain"]
        return linear(p, "project_out", y).reshape(x.shape)

    mixer = SSD(site(8), state=state_size, head_channels=4, groups=groups)
    assert_agrees(OnTokens(mixer), formula, torch.randn(2, *SIDES, 1, 8))


def test_gla_forgets_per_key_channel() -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        p, tokens = under(p, "mixer."), x.flatten(1, 3)
        q, k, v = (heads(linear(p, name, tokens), 2) for name in ("query", "key", "value"))
        decay = torch.sigmoid(heads(linear(p, "decay.1", linear(p, "decay.0", tokens)), 2)) ** (1 / 16)
        state, outputs = torch.zeros(x.shape[0], 2, q.shape[-1], v.shape[-1], dtype=x.dtype), []
        for t in range(tokens.shape[1]):
            state = decay[:, t].unsqueeze(-1) * state + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
            outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t] * q.shape[-1] ** -0.5))
        y = rms_norm(p["norm.weight"], torch.stack(outputs, 1)) * silu(heads(linear(p, "gate", tokens), 2))
        return linear(p, "project", y.flatten(2)).reshape(x.shape)

    assert_agrees(OnTokens(GatedLinearAttention(site(8, num_heads=2))), formula, torch.randn(2, *SIDES, 1, 8))


def blocks(weight: Tensor, x: Tensor) -> Tensor:
    """A linear map of each group of four channels."""
    return torch.cat([x[..., 4 * i : 4 * i + 4] @ weight[i].T for i in range(weight.shape[0])], -1)


def mlstm_cell(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, forget: Tensor) -> Tensor:
    """One head, with the running maximum and the normaliser max(|n q|, exp(-m)); q, k, v (B, N, E), gates (B, N)."""
    batch, _, channels = q.shape
    memory, norm = torch.zeros(batch, channels, channels, dtype=q.dtype), torch.zeros(batch, channels, dtype=q.dtype)
    highest, outputs = torch.zeros(batch, dtype=q.dtype), []
    for t in range(q.shape[1]):
        fade = -softplus(-forget[:, t])
        previous, highest = highest, torch.maximum(fade + highest, gate[:, t]).detach()
        keep, take = torch.exp(fade + previous - highest), torch.exp(gate[:, t] - highest)
        memory = keep[:, None, None] * memory + take[:, None, None] * k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        norm = keep[:, None] * norm + take[:, None] * k[:, t]
        query = q[:, t] * channels**-0.5
        below = torch.maximum((norm * query).sum(-1).abs(), torch.exp(-highest)) + 1e-6
        outputs.append(torch.einsum("bkv,bk->bv", memory, query) / below[:, None])
    return torch.stack(outputs, 1)


def test_vil_layer_reads_values_before_the_convolution() -> None:
    def formula(p: Weights, x: Tensor) -> Tensor:
        p, tokens = under(p, "mixer."), x.flatten(1, 3)
        m, z = linear(p, "project_in", tokens).chunk(2, -1)
        mixed = causal(p["mix.weight"], m, p["mix.bias"])
        q, k, v = (blocks(p["query.weight"], mixed), blocks(p["key.weight"], mixed), blocks(p["value.weight"], m))
        gates = linear(p, "gates", torch.cat([q, k, v], -1))
        cells = []
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            y = mlstm_cell(q[..., part], k[..., part], v[..., part], gates[..., h], gates[..., 2 + h])
            y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, correction=0, keepdim=True) + 1e-5)
            cells.append(y * p["norm_gain"][h])
        return linear(p, "project_out", (torch.cat(cells, -1) + p["skip"] * mixed) * silu(z)).reshape(x.shape)

    place: Site = site(8, num_heads=2)
    assert_agrees(OnTokens(MLSTM(place)), formula, torch.randn(2, *SIDES, 1, 8))


def test_the_initial_stabiliser_of_mlstm_has_the_gradient_of_what_it_scales() -> None:
    """Without a stabiliser: S_t = sigmoid(f) S + exp(i) k v, started from exp(m) S; o = S q / max(|n q|, 1)."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 5, 1, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    i, f = (torch.randn(1, 5, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    first = [
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((1, 1, 4, 4), (1, 1, 4), (1, 1))
    ]
    seed = torch.randn(1, 5, 1, 4, dtype=torch.float64, generator=generator)
    ours = [x.clone().requires_grad_() for x in (*first, f)]
    found = mlstm(q, k, v, i, ours[3], initial_state=tuple(ours[:3]), eps=0.0)[0]
    theirs = [x.clone().requires_grad_() for x in (*first, f)]
    memory, norm = (theirs[n][0, 0] * theirs[2][0, 0].exp() for n in (0, 1))
    rows = []
    for t in range(5):
        keep, take = torch.sigmoid(theirs[3][0, t, 0]), i[0, t, 0].exp()
        memory = keep * memory + take * torch.outer(k[0, t, 0], v[0, t, 0])
        norm = keep * norm + take * k[0, t, 0]
        query = q[0, t, 0] / 2
        rows.append(query @ memory / torch.clamp((norm * query).sum().abs(), min=1.0))
    expected = torch.stack(rows).reshape(seed.shape)
    assert_close("output", found, expected, 1e-9)
    wanted = torch.autograd.grad(expected, theirs, seed)
    for name, a, b in zip(("S", "n", "m", "f"), torch.autograd.grad(found, ours, seed), wanted, strict=True):
        assert_close(f"gradient of {name}", a, b, 1e-9)
