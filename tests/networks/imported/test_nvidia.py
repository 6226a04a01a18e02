"""Published classifiers of MambaVision, FasterViT and GC ViT under their own names, with random values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.imported import nvidia
from medseg.networks.imported.nvidia import OURS, fill_published, load_published
from medseg.networks.imported.tables import convert
from medseg.networks.mixers.mambavision import MambaVisionMixer
from medseg.networks.published import PUBLISHED

Shapes = dict[str, tuple[int, ...]]


def layer(name: str, out: int, into: int | None = None, *taps: int, bias: bool = True) -> Shapes:
    """Weight and bias of a linear map, a convolution or (without `into`) a norm."""
    weight = (out,) if into is None else (out, into, *taps)
    return {f"{name}.weight": weight, **({f"{name}.bias": (out,)} if bias else {})}


def batch_norm(name: str, c: int) -> Shapes:
    return {
        **layer(name, c),
        f"{name}.running_mean": (c,),
        f"{name}.running_var": (c,),
        f"{name}.num_batches_tracked": (),
    }


def stem(c: int, first: int, counts: tuple[int, ...]) -> Shapes:
    found = layer("patch_embed.conv_down.0", first, 3, 3, 3, bias=False) | batch_norm("patch_embed.conv_down.1", first)
    found |= layer("patch_embed.conv_down.3", c, first, 3, 3, bias=False) | batch_norm("patch_embed.conv_down.4", c)
    for stage in (0, 1):
        for block in range(counts[stage]):
            for n in (1, 2):
                name, width = f"levels.{stage}.blocks.{block}", c * 2**stage
                found |= layer(f"{name}.conv{n}", width, width, 3, 3) | batch_norm(f"{name}.norm{n}", width)
    for stage in range(3):
        found |= layer(f"levels.{stage}.downsample.reduction.0", c * 2 ** (stage + 1), c * 2**stage, 3, 3, bias=False)
    return found | batch_norm("norm", 8 * c) | layer("head", 1000, 8 * c)


def mlp(name: str, c: int, ratio: int = 4, fc: str = "mlp") -> Shapes:
    return layer(f"{name}.{fc}.fc1", ratio * c, c) | layer(f"{name}.{fc}.fc2", c, ratio * c)


def attention(name: str, c: int, queries: int = 3) -> Shapes:
    return layer(f"{name}.qkv", queries * c, c) | layer(f"{name}.proj", c, c)


def mambavision_t() -> Shapes:
    found, counts = stem(80, 32, (1, 3, 8, 4)), {2: 8, 3: 4}
    for stage, count in counts.items():
        c, half = 80 * 2**stage, 40 * 2**stage
        for block in range(count):
            name = f"levels.{stage}.blocks.{block}"
            found |= layer(f"{name}.norm1", c) | layer(f"{name}.norm2", c) | mlp(name, c)
            if block >= count - count // 2:
                found |= attention(f"{name}.mixer", c)
                continue
            mixer = f"{name}.mixer"
            found |= {f"{mixer}.A_log": (half, 8), f"{mixer}.D": (half,), **layer(f"{mixer}.dt_proj", half, c // 16)}
            found |= layer(f"{mixer}.in_proj", c, c, bias=False) | layer(f"{mixer}.out_proj", c, c, bias=False)
            found |= layer(f"{mixer}.x_proj", c // 16 + 16, half, bias=False)
            found |= {f"{mixer}.conv1d_x.weight": (half, 1, 3), f"{mixer}.conv1d_z.weight": (half, 1, 3)}
    return found


def position(name: str, out: int, *, bias: bool = False) -> Shapes:
    return layer(f"{name}.cpb_mlp.0", 512, 2) | layer(f"{name}.cpb_mlp.2", out, 512, bias=bias)


def fastervit_0() -> Shapes:
    found = stem(64, 64, (2, 3, 6, 5))
    for stage in range(3):
        found |= layer(f"levels.{stage}.downsample.norm", 64 * 2**stage)
    found |= layer("levels.2.global_tokenizer.to_global_feature.pos", 256, 1, 3, 3)
    for stage, count, heads in ((2, 6, 8), (3, 5, 16)):
        c = 64 * 2**stage
        for block in range(count):
            name = f"levels.{stage}.blocks.{block}"
            for hat in ("", "hat_") if stage == 2 else ("",):
                found |= position(f"{name}.{hat}pos_embed", c) | attention(f"{name}.{hat}attn", c)
                found |= position(f"{name}.{hat}attn.pos_emb_funct", heads)
                found |= layer(f"{name}.{hat}norm1", c) | layer(f"{name}.{hat}norm2", c) | mlp(name, c, fc=f"{hat}mlp")
                found |= {f"{name}.{hat}attn.pos_emb_funct.relative_coords_table": (1, 13, 13, 2)}
    return found


def residual(name: str, c: int) -> Shapes:
    return {
        f"{name}.0.weight": (c, 1, 3, 3), f"{name}.2.fc.0.weight": (c // 4, c), f"{name}.2.fc.2.weight": (c, c // 4),
        f"{name}.3.weight": (c, c, 1, 1),
    }  # fmt: skip


def gcvit_xxt() -> Shapes:
    def down(name: str, c: int, after: int) -> Shapes:
        own = residual(f"{name}.conv", c) | layer(f"{name}.reduction", after, c, 3, 3, bias=False)
        return own | layer(f"{name}.norm1", c) | layer(f"{name}.norm2", after)

    found = layer("patch_embed.proj", 64, 3, 3, 3) | down("patch_embed.conv_down", 64, 64)
    for stage, (count, side, steps) in enumerate(zip((2, 2, 6, 2), (7, 7, 14, 7), (3, 2, 1, 1), strict=True)):
        c = 64 * 2**stage
        found |= down(f"levels.{stage}.downsample", c, 2 * c) if stage < 3 else {}
        for step in range(steps):
            found |= residual(f"levels.{stage}.q_global_gen.to_q_global.{step}.conv", c)
        for block in range(count):
            name = f"levels.{stage}.blocks.{block}"
            found |= layer(f"{name}.norm1", c) | layer(f"{name}.norm2", c) | mlp(name, c, 3)
            found |= attention(f"{name}.attn", c, 2 if block % 2 else 3)
            found |= {f"{name}.attn.relative_position_bias_table": ((2 * side - 1) ** 2, 2 * 2**stage)}
            found |= {f"{name}.attn.relative_position_index": (side**2, side**2)}
    return found | layer("norm", 512) | layer("head", 1000, 512)


FAMILIES = {"mambavision_t": mambavision_t, "fastervit_0": fastervit_0, "gcvit_xxt": gcvit_xxt}
# their name -> ours, where two of one shape could be mistaken for each other
PAIRS = {
    "mambavision_t": {
        "patch_embed.conv_down.4.running_var": "1.entry.norm.running_var",
        "levels.1.blocks.2.norm2.weight": "2.body.layers.2.second_norm.weight",
        "levels.2.blocks.3.norm2.bias": "3.body.layers.7.norm.bias",
        "levels.3.blocks.3.mixer.proj.weight": "4.body.layers.6.mixer.project.weight",
        "levels.2.downsample.reduction.0.weight": "4.entry.convolution.weight",
    },
    "fastervit_0": {
        "levels.2.blocks.5.hat_norm2.weight": "3.body.layers.10.among.mlp_norm.weight",
        "levels.2.blocks.1.norm2.weight": "3.body.layers.3.norm.weight",
        "levels.2.blocks.0.hat_attn.proj.weight": "3.body.layers.0.among.project.weight",
        "levels.2.blocks.0.hat_mlp.fc2.weight": "3.body.layers.0.among.mlp.2.weight",
        "levels.3.blocks.0.pos_embed.cpb_mlp.2.weight": "4.body.layers.0.position.second.weight",
    },
    "gcvit_xxt": {
        "levels.0.downsample.norm1.weight": "2.entry.before.norm.weight",
        "levels.2.blocks.3.norm1.weight": "3.body.layers.6.norm.weight",
        "levels.2.blocks.3.attn.qkv.bias": "3.body.layers.6.mixer.key_value.bias",
        "levels.0.q_global_gen.to_q_global.2.conv.3.weight": "1.body.prepare.0.blocks.2.pointwise.weight",
    },
}


def values(published: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.tensor(7) if shape == () else torch.randn(shape) for name, shape in FAMILIES[published]().items()
    }


@pytest.mark.parametrize("published", FAMILIES)
def test_every_published_entry_finds_its_place(published: str) -> None:
    with torch.device("meta"):
        network = build_network(published=published, spatial_dims=2, in_channels=3)
    state = values(published)
    found = convert(nvidia.TABLES[PUBLISHED[published].preset], state)
    assert found.unknown == []
    own = {
        name: value.shape for name, value in network.state_dict().items()
        if not any(name == part or name.startswith(f"{part}.") for part in OURS)
    }  # fmt: skip
    assert set(found.state) == set(own)
    assert all(found.state[name].numel() == shape.numel() for name, shape in own.items())
    dropped = {name for name in state if name.split(".")[0] in ("norm", "head") or "relative_" in name.split(".")[-1]}
    kept = sum(value.numel() for name, value in state.items() if name not in dropped or name.endswith("bias_table"))
    assert sum(value.numel() for value in found.state.values()) == kept
    for theirs, ours in PAIRS[published].items():
        stage, _, rest = ours.partition(".")
        assert torch.equal(found.state[f"encoder.levels.{int(stage) + 1}.{rest}"], state[theirs])
    if published == "mambavision_t":
        taps = found.state["encoder.levels.4.body.layers.0.mixer.taps"]
        assert torch.equal(taps[:160], state["levels.2.blocks.0.mixer.conv1d_x.weight"])
        assert torch.equal(taps[160:], state["levels.2.blocks.0.mixer.conv1d_z.weight"])


def test_one_name_sets_everything_that_published_weights_need(caplog: pytest.LogCaptureFixture) -> None:
    state: dict[str, Any] = {"model": values("mambavision_t")}
    network = load_published("mambavision_t", state, out_channels=4)
    assert "non-commercial" in caplog.text
    mixers = [module for module in network.modules() if isinstance(module, MambaVisionMixer)]
    assert {mixer.dt_bias_scale for mixer in mixers} == {2.0}
    assert network.encoder.levels[4].body.pad_windows
    found = network.state_dict()["encoder.levels.1.entry.norm.running_mean"]
    assert torch.equal(found, state["model"]["patch_embed.conv_down.1.running_mean"])
    again = build_network(**network.configuration)
    again.load_state_dict(network.state_dict())
    with pytest.raises(ConfigError, match="computes something else"):
        fill_published(build_network("mambavision", size="t", spatial_dims=2, in_channels=3), state)


def test_weights_of_another_size_of_the_family_are_refused() -> None:
    with torch.device("meta"):
        network = build_network(published="mambavision_t2", spatial_dims=2, in_channels=3)
    with pytest.raises(ConfigError, match=r"layers\.8\.mixer\.taps \(320, 3\).* 231 of the network's 283"):
        fill_published(network, values("mambavision_t"))


def test_licences_are_said_of_every_published_network() -> None:
    for entry in PUBLISHED.values():
        assert ("non-commercial" in entry.licence) == (entry.preset in nvidia.TABLES)
