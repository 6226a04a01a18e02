"""Weights of MONAI's Swin UNETR for the preset `swin_unetr`: the same network under other names."""

from collections.abc import Mapping

from torch import Tensor

from medseg.errors import ConfigError

from ..network import SegmentationNetwork

# MONAI's decoder counts from the top: decoder5 leads from the bottleneck to the level above it.
_SKIPS = {0: "encoder1.layer", 1: "encoder2.layer", 2: "encoder3.layer", 3: "encoder4.layer", 5: "encoder10.layer"}


def from_monai_swin_unetr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a MONAI 1.6 `SwinUNETR(use_v2=False)` state dict.

    Args:
        state: `SwinUNETR(...).state_dict()`.

    Returns:
        Entries for `build_network("swin_unetr", size=feature_size, padding="published", deep_supervision=False,
        ...)` built with `bias_index="monai"` (see `load_monai_swin_unetr`).
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (new := _rename(name)) is not None:
            renamed[new] = tensor
    return renamed


def load_monai_swin_unetr(network: SegmentationNetwork, state: Mapping[str, Tensor]) -> None:
    """Load MONAI's weights into a `swin_unetr` network and make it compute what MONAI computes.

    Args:
        network: `build_network("swin_unetr", size="24" or "48", padding="published", ...)`; its heads of coarser scales
            keep their values.
        state: of MONAI's network with the same feature size, channels and classes.

    Raises:
        ConfigError: entries that are missing or of another shape.
    """
    renamed = from_monai_swin_unetr(state)
    own = network.state_dict()
    wrong = [name for name, tensor in own.items()
             if not name.startswith("coarse_heads") and (name not in renamed or renamed[name].shape != tensor.shape)]  # fmt: skip
    if wrong:
        raise ConfigError(f"MONAI's weights: {len(wrong)} entries are missing or of another shape, such as {wrong[0]!r}; "
                          "expected SwinUNETR with the same feature size, channels and classes, use_v2=False")  # fmt: skip
    network.load_state_dict(renamed, strict=False)
    for module in network.modules():
        if hasattr(module, "bias_index"):
            module.bias_index = "monai"  # type: ignore[assignment]


def _rename(name: str) -> str | None:
    """Our name of one of MONAI's entries; None for buffers that we do not keep."""
    if name.endswith("relative_position_index"):
        return None
    for level, prefix in _SKIPS.items():
        if name.startswith(prefix + "."):
            home = "encoder.levels.0.entry.block" if level == 0 else f"decoder.skips.{level}"
            return f"{home}.{_conv(name[len(prefix) + 1 :])}"
    if name.startswith("decoder"):
        number, rest = name[7], name[9:]
        up = 5 - int(number)
        rest = rest.replace("transp_conv.conv.", "up.").replace("conv_block.", "block.")
        return f"decoder.ups.{up}.{_conv(rest)}"
    if name.startswith("out.conv.conv."):
        return "head." + name.removeprefix("out.conv.conv.")
    if name.startswith("swinViT.patch_embed.proj."):
        return "encoder.levels.1.entry.convolution." + name.removeprefix("swinViT.patch_embed.proj.")
    return _rename_stage(name)


def _conv(name: str) -> str:
    """MONAI wraps every convolution: `conv1.conv.weight` is `conv1.weight`."""
    return name.replace(".conv.", ".")


def _rename_stage(name: str) -> str | None:
    """`swinViT.layers2.0.blocks.1.attn.qkv.weight` and the mergings."""
    parts = name.split(".")
    if len(parts) < 4 or not parts[1].startswith("layers"):
        return None
    stage = int(parts[1].removeprefix("layers"))
    if parts[3] == "downsample":
        return f"encoder.levels.{stage + 1}.entry.{'.'.join(parts[4:])}"
    block, rest = int(parts[4]), ".".join(parts[5:])
    attention, mlp = (
        f"encoder.levels.{stage}.body.layers.{2 * block}",
        f"encoder.levels.{stage}.body.layers.{2 * block + 1}",
    )
    table = {
        "norm1": f"{attention}.norm", "attn.qkv": f"{attention}.mixer.qkv", "attn.proj": f"{attention}.mixer.project",
        "norm2": f"{mlp}.norm", "mlp.linear1": f"{mlp}.mixer.expand", "mlp.linear2": f"{mlp}.mixer.reduce",
    }  # fmt: skip
    if rest == "attn.relative_position_bias_table":
        return f"{attention}.mixer.table"
    stem, _, kind = rest.rpartition(".")
    return f"{table[stem]}.{kind}" if stem in table else None
