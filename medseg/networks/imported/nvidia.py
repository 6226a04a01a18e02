"""Weights of the classifiers MambaVision, FasterViT and GC ViT for the encoders of the presets of these names.

Such weights are for non-commercial use only; none is downloaded, and none is in this project. Names are those of the
published state dicts. The decoder, the level at full resolution and the norms of the skips are ours: they stay as made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.errors import ConfigError

from ..build import build_network
from ..network import SegmentationNetwork
from ..published import PUBLISHED
from .fitting import fit, plain_state
from .tables import Rule, convert

log = logging.getLogger(__name__)

# What a classifier does not have, and what a segmentation network does not.
OURS = ("encoder.levels.0", *(f"encoder.levels.{n}.skip" for n in range(2, 6)), "decoder", "head", "coarse_heads")
HEAD = [Rule("norm.{rest}", None), Rule("head.{rest}", None)]


def _named(theirs: str, ours: str, pairs: Mapping[str, str]) -> list[Rule]:
    """Lines for the weight and bias of several layers of one block."""
    return [Rule(f"{theirs}.{old}.{{kind}}", f"{ours}.{new}.{{kind}}") for old, new in pairs.items()]


# The stem of two convolutions, and the two convolution stages, are the same in MambaVision and FasterViT.
STEM = _named(
    "patch_embed.conv_down", "encoder.levels",
    {"0": "1.entry.convolution", "1": "1.entry.norm", "3": "2.entry.convolution", "4": "2.entry.norm"},
) + [
    rule
    for stage in (0, 1)
    for rule in _named(
        f"levels.{stage}.blocks.{{b}}", f"encoder.levels.{stage + 2}.body.layers.{{b}}",
        {"conv1": "first", "norm1": "first_norm", "conv2": "second", "norm2": "second_norm"},
    )
] + [Rule("levels.{s}.downsample.reduction.0.weight", "encoder.levels.{s:+3}.entry.convolution.weight")]  # fmt: skip

_BLOCK, _MIX = "levels.{s}.blocks.{b}", "encoder.levels.{s:+2}.body.layers.{b:*2}"
_MLP = "encoder.levels.{s:+2}.body.layers.{b:*2+1}"

MAMBAVISION = [
    *STEM,
    *_named(_BLOCK, _MIX, {
        "norm1": "norm", "mixer.in_proj": "mixer.project_in", "mixer.x_proj": "mixer.project_scan",
        "mixer.dt_proj": "mixer.project_dt", "mixer.out_proj": "mixer.project_out", "mixer.qkv": "mixer.qkv",
        "mixer.proj": "mixer.project",
    }),
    Rule(_BLOCK + ".mixer.conv1d_x.weight", _MIX + ".mixer.taps", part=0),
    Rule(_BLOCK + ".mixer.conv1d_z.weight", _MIX + ".mixer.taps", part=1),
    Rule(_BLOCK + ".mixer.A_log", _MIX + ".mixer.log_rate"),
    Rule(_BLOCK + ".mixer.D", _MIX + ".mixer.skip"),
    Rule(_BLOCK + ".gamma_1", _MIX + ".gain.gamma"),
    Rule(_BLOCK + ".gamma_2", _MLP + ".gain.gamma"),
    *_named(_BLOCK, _MLP, {"norm2": "norm", "mlp.fc1": "mixer.expand", "mlp.fc2": "mixer.reduce"}),
    *HEAD,
]  # fmt: skip

FASTERVIT = [
    *STEM,
    Rule("levels.{s}.downsample.norm.{kind}", "encoder.levels.{s:+3}.entry.norm.norm.{kind}"),
    Rule(
        "levels.{s}.global_tokenizer.to_global_feature.pos.{kind}", "encoder.levels.{s:+2}.body.prepare.0.depthwise.{kind}"
    ),
    *(Rule(f"{_BLOCK}.{place}relative_{{rest}}", None) for place in (
        "pos_embed.", "hat_pos_embed.", "attn.pos_emb_funct.", "hat_attn.pos_emb_funct."
    )),
    *_named(_BLOCK, _MIX, {
        "pos_embed.cpb_mlp.0": "position.first", "pos_embed.cpb_mlp.2": "position.second", "norm1": "norm",
        "attn.qkv": "qkv", "attn.proj": "project", "attn.pos_emb_funct.cpb_mlp.0": "bias.first",
        "attn.pos_emb_funct.cpb_mlp.2": "bias.second", "hat_pos_embed.cpb_mlp.0": "among.position.first",
        "hat_pos_embed.cpb_mlp.2": "among.position.second", "hat_norm1": "among.norm", "hat_attn.qkv": "among.qkv",
        "hat_attn.proj": "among.project", "hat_attn.pos_emb_funct.cpb_mlp.0": "among.bias.first",
        "hat_attn.pos_emb_funct.cpb_mlp.2": "among.bias.second", "hat_norm2": "among.mlp_norm",
        "hat_mlp.fc1": "among.mlp.0", "hat_mlp.fc2": "among.mlp.2",
    }),
    *_named(_BLOCK, _MLP, {"norm2": "norm", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}),
    Rule(_BLOCK + ".gamma1", _MIX + ".among.attention_gain.gamma"),
    Rule(_BLOCK + ".gamma2", _MIX + ".among.mlp_gain.gamma"),
    Rule(_BLOCK + ".gamma3", _MIX + ".gain.gamma"),
    Rule(_BLOCK + ".gamma4", _MLP + ".gain.gamma"),
    *HEAD,
]  # fmt: skip


def _residual(theirs: str, ours: str) -> list[Rule]:
    """GC ViT's residual of convolutions, inside its ways down and its queries."""
    return _named(
        theirs, ours,
        {"0": "depthwise", "2.fc.0": "squeeze.reduce", "2.fc.2": "squeeze.expand", "3": "pointwise"},
    )  # fmt: skip


def _down(theirs: str, ours: str) -> list[Rule]:
    return [
        *_residual(f"{theirs}.conv", f"{ours}.residual"),
        *_named(theirs, ours, {"reduction": "reduce", "norm1": "before.norm", "norm2": "after.norm"}),
    ]


GCVIT = [
    Rule("patch_embed.proj.{kind}", "encoder.levels.1.entry.convolution.{kind}"),
    *_down("patch_embed.conv_down", "encoder.levels.2.entry"),
    *_down("levels.{s}.downsample", "encoder.levels.{s:+3}.entry"),
    *_residual("levels.{s}.q_global_gen.to_q_global.{k}.conv", "encoder.levels.{s:+2}.body.prepare.0.blocks.{k}"),
    Rule(_BLOCK + ".attn.relative_position_index", None),
    Rule(_BLOCK + ".attn.relative_position_bias_table", _MIX + ".mixer.table"),
    # local blocks come first, then every other block asks the global query: only keys and values are made there
    *(
        Rule(f"levels.{{s}}.blocks.{b}.attn.qkv.{{kind}}",
             f"encoder.levels.{{s:+2}}.body.layers.{2 * b}.mixer.{'key_value' if b % 2 else 'qkv'}.{{kind}}")
        for b in range(40)
    ),
    *_named(_BLOCK, _MIX, {"norm1": "norm", "attn.proj": "mixer.project"}),
    *_named(_BLOCK, _MLP, {"norm2": "norm", "mlp.fc1": "mixer.expand", "mlp.fc2": "mixer.reduce"}),
    Rule(_BLOCK + ".gamma1", _MIX + ".gain.gamma"),
    Rule(_BLOCK + ".gamma2", _MLP + ".gain.gamma"),
    *HEAD,
]  # fmt: skip

TABLES = {"mambavision": MAMBAVISION, "fastervit": FASTERVIT, "gcvit": GCVIT}


def load_published(
    published: str, state: Mapping[str, Any], *, partial: Sequence[str] = (), **arguments: Any
) -> SegmentationNetwork:
    """A segmentation network whose encoder has the published weights of a classifier.

    Args:
        published: `mambavision_t`, `fastervit_0`, `gcvit_xxt` and so on; see `PUBLISHED`.
        state: the classifier's state dict.
        partial: beginnings of names that may stay as made where they do not fit.
        arguments: of `build_network`; two dimensions and three channels are what these weights are for.

    Raises:
        ConfigError: no such name, or entries that do not fit.
    """
    if published not in PUBLISHED or PUBLISHED[published].preset not in TABLES:
        names = [name for name, entry in PUBLISHED.items() if entry.preset in TABLES]
        raise ConfigError(f"load_published: found {published!r}, expected one of {', '.join(names)}")
    network = build_network(published=published, **{"spatial_dims": 2, "in_channels": 3, **arguments})
    fill_published(network, state, partial=partial)
    return network


def fill_published(network: SegmentationNetwork, state: Mapping[str, Any], *, partial: Sequence[str] = ()) -> list[str]:
    """Published weights into the encoder of a network that was built with `published=`.

    Returns:
        Names that stayed as made.

    Raises:
        ConfigError: the network was built otherwise, or entries do not fit.
    """
    published = str(network.configuration.get("published"))
    entry = PUBLISHED.get(published)
    if entry is None or entry.preset not in TABLES or network.configuration.get("mixer") is not None:
        raise ConfigError(
            "weights of a published classifier: found a network built with "
            f"{network.configuration.get('published') or network.configuration.get('preset')!r}, which computes something "
            "else with them; expected build_network(published='mambavision_t') or another of these names"
        )
    log.warning("%s: %s", published, entry.licence)
    source = f"published weights of {published}"
    return fit(
        network, convert(TABLES[entry.preset], plain_state(state, source)), source=source, partial=partial, stay=OURS
    )
