"""Weights of MONAI's Swin UNETR, versions 1 and 2, in 2D and 3D: the same networks under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medseg.errors import ConfigError

from ..build import build_network
from ..network import SegmentationNetwork
from ..published import PUBLISHED
from .fitting import fit, plain_state
from .tables import Rule, convert

SOURCE = "MONAI's Swin UNETR"
_STAGE = "swinViT.layers{s}.0.blocks.{b}."
_BODY = "encoder.levels.{s}.body.layers."


def _table(first: int) -> list[Rule]:
    """MONAI's decoder counts from the top: decoder5 leads from the bottleneck. `first` layers come before the attention."""
    skips = {1: "encoder.levels.0.entry.block", 2: "decoder.skips.1", 3: "decoder.skips.2", 4: "decoder.skips.3"}
    attention, mlp = f"{{b:*2+{first}}}", f"{{b:*2+{first + 1}}}"
    return [
        *(Rule(f"encoder{n}.layer.conv{{c}}.conv.weight", f"{home}.conv{{c}}.weight") for n, home in skips.items()),
        Rule("encoder10.layer.conv{c}.conv.weight", "decoder.skips.5.conv{c}.weight"),
        *(Rule(f"decoder{n}.transp_conv.conv.weight", f"decoder.ups.{5 - n}.up.weight") for n in range(1, 6)),
        *(
            Rule(f"decoder{n}.conv_block.conv{{c}}.conv.weight", f"decoder.ups.{5 - n}.block.conv{{c}}.weight")
            for n in range(1, 6)
        ),
        Rule("out.conv.conv.{kind}", "head.{kind}"),
        Rule("swinViT.patch_embed.proj.{kind}", "encoder.levels.1.entry.convolution.{kind}"),
        Rule("swinViT.layers{s}.0.downsample.{rest}", "encoder.levels.{s:+1}.entry.{rest}"),
        Rule("swinViT.layers{s}c.0.layer.conv{c}.conv.weight", _BODY + "0.block.conv{c}.weight"),
        Rule(_STAGE + "norm1.{kind}", f"{_BODY}{attention}.norm.{{kind}}"),
        Rule(_STAGE + "attn.relative_position_bias_table", f"{_BODY}{attention}.mixer.table"),
        Rule(_STAGE + "attn.relative_position_index", None),
        Rule(_STAGE + "attn.qkv.{kind}", f"{_BODY}{attention}.mixer.qkv.{{kind}}"),
        Rule(_STAGE + "attn.proj.{kind}", f"{_BODY}{attention}.mixer.project.{{kind}}"),
        Rule(_STAGE + "norm2.{kind}", f"{_BODY}{mlp}.norm.{{kind}}"),
        Rule(_STAGE + "mlp.linear1.{kind}", f"{_BODY}{mlp}.mixer.expand.{{kind}}"),
        Rule(_STAGE + "mlp.linear2.{kind}", f"{_BODY}{mlp}.mixer.reduce.{{kind}}"),
    ]  # fmt: skip


TABLES = {"swin_unetr": _table(0), "swin_unetr_v2": _table(1)}


def from_monai_swin_unetr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a MONAI 1.6 `SwinUNETR` state dict under our names; see `load_monai_swin_unetr`."""
    plain = plain_state(state, SOURCE)
    return convert(TABLES[_preset(plain)], plain).state


def load_monai_swin_unetr(
    network: SegmentationNetwork | None, state: Mapping[str, Any], *, partial: tuple[str, ...] = ()
) -> SegmentationNetwork:
    """MONAI's weights in a network that computes what MONAI computes, now and when its `configuration` builds it again.

    MONAI's default settings are taken: they leave no trace in the weights (normalised taps, patches of 2, `merging`).

    Args:
        network: built with `published="monai_swin_unetr_48"` or another of these names; None makes one.
        state: of `SwinUNETR(feature_size=12, 24 or 48)` with `use_v2` on or off, in 2D or 3D.
        partial: beginnings of names (`head`) that may stay as made where they do not fit.

    Returns:
        The network; its heads of coarser scales, which MONAI does not have, are as made.

    Raises:
        ConfigError: entries that do not fit, or a network that computes something else with these weights.
    """
    plain = plain_state(state, SOURCE)
    preset = _preset(plain)
    if network is None:
        network = build_network(**_arguments(plain, preset))
    _refuse_other_function(network, preset)
    fit(network, convert(TABLES[preset], plain), source=SOURCE, partial=partial, stay=("coarse_heads",))
    return network


def _preset(state: Mapping[str, Tensor]) -> str:
    return "swin_unetr_v2" if any(name.startswith("swinViT.layers1c.") for name in state) else "swin_unetr"


def _arguments(state: Mapping[str, Tensor], preset: str) -> dict[str, Any]:
    """Of the network that has these weights.

    Raises:
        ConfigError: entries that tell it are missing, or no size has this width.
    """
    embedding, head = state.get("swinViT.patch_embed.proj.weight"), state.get("out.conv.conv.weight")
    if embedding is None or head is None:
        missing = "swinViT.patch_embed.proj.weight" if embedding is None else "out.conv.conv.weight"
        raise ConfigError(f"{SOURCE}: {missing!r} is missing, which tells the size; expected SwinUNETR's state dict")
    published = f"monai_{preset}_{embedding.shape[0]}"
    if published not in PUBLISHED:
        sizes = sorted(entry.size for entry in PUBLISHED.values() if entry.preset == preset)
        raise ConfigError(f"{SOURCE}: found feature_size {embedding.shape[0]}, expected one of {', '.join(sizes)}")
    return {
        "published": published, "spatial_dims": embedding.ndim - 2, "in_channels": embedding.shape[1],
        "out_channels": head.shape[0],
    }  # fmt: skip


def _refuse_other_function(network: SegmentationNetwork, preset: str) -> None:
    """Weights must not meet a network that reads them differently."""
    published = str(network.configuration.get("published"))
    if not published.startswith("monai_swin_unetr"):
        built = ", ".join(f"{key}={network.configuration.get(key)!r}" for key in ("preset", "size", "padding"))
        raise ConfigError(
            f"{SOURCE}: found a network built with {built}, which computes something else with these weights; expected "
            "build_network(published='monai_swin_unetr_48') or another of these names, or None"
        )
    if network.configuration.get("mixer") is not None or PUBLISHED[published].preset != preset:
        raise ConfigError(f"{SOURCE}: found the network {published}, expected {preset} without another mixer")
