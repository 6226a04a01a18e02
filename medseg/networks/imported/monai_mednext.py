"""Weights of MONAI's MedNeXt (sizes S, B, M, L; kernels of any odd size) for the preset `mednext`, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medseg.errors import ConfigError

from ..build import build_network, find_spec
from ..network import SegmentationNetwork
from ..presets.baselines import MEDNEXT_SIZES
from .fitting import fit, plain_state
from .tables import Rule, convert

SOURCE = "MONAI's MedNeXt"
LEVELS = 5


def _block(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.conv1.{{kind}}", f"{ours}.depthwise.{{kind}}"),
        Rule(f"{theirs}.norm.{{kind}}", f"{ours}.mix.norm.{{kind}}"),
        Rule(f"{theirs}.conv2.{{kind}}", f"{ours}.mix.expand.{{kind}}"),
        Rule(f"{theirs}.conv3.{{kind}}", f"{ours}.mix.reduce.{{kind}}"),
        Rule(f"{theirs}.res_conv.{{kind}}", f"{ours}.shortcut.{{kind}}"),
    ]


def _head(theirs: str, ours: str) -> list[Rule]:
    """Heads are transposed convolutions of one voxel there: the same map with its axes changed."""
    return [
        Rule(f"{theirs}.conv_out.weight", f"{ours}.weight", change=lambda weight: weight.transpose(0, 1)),
        Rule(f"{theirs}.conv_out.bias", f"{ours}.bias"),
    ]


TABLE = [
    Rule("stem.{kind}", "encoder.levels.0.entry.convolution.{kind}"),
    *_block("enc_stages.{s}.{b}", "encoder.levels.{s}.body.layers.{b}"),
    *_block("down_blocks.{s}", "encoder.levels.{s:+1}.entry"),
    *_block("bottleneck.{b}", f"encoder.levels.{LEVELS - 1}.body.layers.{{b}}"),
    *_block("up_blocks.{s}", "decoder.ups.{s}"),
    *_block("dec_stages.{s}.{b}", "decoder.blocks.{s}.{b}"),
    *_head("out_0", "head"),
    *(rule for n in range(1, LEVELS - 1) for rule in _head(f"out_blocks.{n}", f"coarse_heads.{LEVELS - 2 - n}")),
    Rule("out_blocks.0.{rest}", None),  # a head on the lowest level, used in training only
]


def load_monai_mednext(state: Mapping[str, Any], *, partial: tuple[str, ...] = ()) -> SegmentationNetwork:
    """A network with MONAI's weights that computes what MONAI computes, now and when its `configuration` builds it again.

    Args:
        state: of `create_mednext("S" ... "L", ...)` of MONAI 1.6.
        partial: beginnings of names (`head`) that may stay as made where they do not fit.

    Raises:
        ConfigError: entries that do not fit, or a network that is none of these sizes.
    """
    plain = plain_state(state, SOURCE)
    network = build_network(**_arguments(plain))
    trained = any(name.startswith("out_blocks.") for name in plain)
    fit(network, convert(TABLE, plain), source=SOURCE, partial=partial, stay=() if trained else ("coarse_heads",))
    return network


def same_function(network: SegmentationNetwork) -> None:
    """Weights must not meet a network that reads them differently.

    Raises:
        ConfigError: it was not built for them.
    """
    if not str(network.configuration.get("published")).startswith("monai_mednext_"):
        raise ConfigError(
            f"{SOURCE}: found a network built with preset {network.configuration.get('preset')!r}, expected "
            "build_network(published='monai_mednext_s') or another of these names"
        )


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of the network that has these weights."""
    missing = next(
        (name for name in ("stem.weight", "out_0.conv_out.weight", "enc_stages.0.0.conv1.weight") if name not in state),
        None,
    )
    if missing is not None:
        raise ConfigError(f"{SOURCE}: {missing!r} is missing, which tells the size; expected MedNeXt's state dict")
    if any("global_resp" in name for name in state):
        raise ConfigError(f"{SOURCE}: found global_resp_norm, expected weights of MedNeXt S, B, M or L without it")
    if not any("res_conv" in name for name in state):
        raise ConfigError(f"{SOURCE}: found no residual ways down and up, expected use_residual_connection=True")
    blocks = [_count(state, f"enc_stages.{s}") for s in range(LEVELS - 1)] + [_count(state, "bottleneck")]
    blocks += [_count(state, f"dec_stages.{s}") for s in range(LEVELS - 1)]
    ratios = tuple(
        _ratio(state, name) for name in (*(f"enc_stages.{s}.0" for s in range(LEVELS - 1)), "bottleneck.0",
                                         *(f"dec_stages.{s}.0" for s in range(LEVELS - 1)))
    )  # fmt: skip
    size = next((size for size, known in MEDNEXT_SIZES.items() if known == (tuple(blocks), ratios)), None)
    if size is None or state["stem.weight"].shape[0] != 32:
        raise ConfigError(
            f"{SOURCE}: found {blocks} blocks of ratios {list(ratios)} and width {state['stem.weight'].shape[0]}, expected "
            "those of S, B, M or L with width 32"
        )
    dims, kernel = state["stem.weight"].ndim - 2, state["enc_stages.0.0.conv1.weight"].shape[-1]
    arguments: dict[str, Any] = {
        "published": f"monai_mednext_{size}", "spatial_dims": dims, "in_channels": state["stem.weight"].shape[1],
        "out_channels": state["out_0.conv_out.weight"].shape[1],
    }  # fmt: skip
    if kernel != 3:
        arguments["layer_options"] = {"mednext": {"kernel": kernel}}
        arguments["decoder_options"] = {**find_spec("mednext", size, dims).decoder_options, "kernel": kernel}
    return arguments


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) + 1 :].split(".")[0] for name in state if name.startswith(f"{prefix}.")})


def _ratio(state: Mapping[str, Tensor], block: str) -> int:
    weight = state.get(f"{block}.conv2.weight")
    return 0 if weight is None else weight.shape[0] // weight.shape[1]
