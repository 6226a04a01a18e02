"""nnU-Net v2's two 3D networks under their own parameter names, so that trained weights load as they are.

Plain encoder (`PlainConvUNet`) and residual encoder (`ResidualEncoderUNet`) with the same decoder. Only what a trained
folder needs: instance norm, leaky ReLU, strided convolutions; anything else is refused by name. Not for training anew: the
preset `resenc_unet` is.

Source: Isensee et al. 2021 (nnU-Net) and 2024 (residual encoders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.documents import first_break
from medseg.errors import ConfigError

# What a plans file may name, and what it means here.
KNOWN_CLASSES = ("PlainConvUNet", "ResidualEncoderUNet")

_COUNT = {"type": "integer", "minimum": 1, "maximum": 64}
_COUNTS = {"anyOf": [_COUNT, {"type": "array", "maxItems": 20, "items": _COUNT}]}
_STEPS = {"anyOf": [_COUNT, {"type": "array", "minItems": 3, "maxItems": 3, "items": _COUNT}]}
_WIDTH = {"type": "integer", "minimum": 1, "maximum": 8192}
# Types and bounds of `arch_kwargs`: a file of a stranger decides how many layers are made.
ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "required": ["n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"],
    "properties": {
        "n_stages": {"type": "integer", "minimum": 2, "maximum": 20},
        "features_per_stage": {"anyOf": [_WIDTH, {"type": "array", "maxItems": 20, "items": _WIDTH}]},
        "kernel_sizes": {"anyOf": [_COUNT, {"type": "array", "maxItems": 20, "items": _STEPS}]},
        "strides": {"anyOf": [_COUNT, {"type": "array", "maxItems": 20, "items": _STEPS}]},
        "n_conv_per_stage": _COUNTS,
        "n_blocks_per_stage": _COUNTS,
        "n_conv_per_stage_decoder": _COUNTS,
        "conv_bias": {"type": "boolean"},
        "norm_op_kwargs": {
            "type": ["object", "null"],
            "properties": {"eps": {"type": "number", "minimum": 0, "maximum": 1}},
        },
    },
}

Triple = tuple[int, int, int]


class Block(nn.Module):
    """Convolution, instance norm, leaky ReLU (optional): `conv` and `norm` carry the parameters."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1), *, bias: bool = True,
        eps: float = 1e-5, slope: float | None = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2, (kernel[2] - 1) // 2)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, eps=eps, affine=True)
        self.act = nn.Identity() if slope is None else nn.LeakyReLU(slope, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Stack(nn.Module):
    """Several blocks one after the other; the first may stride."""

    def __init__(
        self, count: int, inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1), **options: Any
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                Block(inputs if i == 0 else outputs, outputs, kernel, stride if i == 0 else (1, 1, 1), **options)
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip that pools where it strides and projects where the width changes."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple, *, bias: bool, eps: float) -> None:
        super().__init__()
        self.conv1 = Block(inputs, outputs, kernel, stride, bias=bias, eps=eps)
        self.conv2 = Block(outputs, outputs, kernel, bias=bias, eps=eps, slope=None)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        ops: list[nn.Module] = []
        if any(step != 1 for step in stride):
            ops.append(nn.AvgPool3d(stride, stride))
        if inputs != outputs:
            ops.append(Block(inputs, outputs, (1, 1, 1), bias=False, eps=eps, slope=None))
        self.skip = nn.Sequential(*ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.skip(x))


class ResidualStage(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(
        self, count: int, inputs: int, outputs: int, kernel: Triple, stride: Triple, *, bias: bool, eps: float
    ) -> None:
        super().__init__()
        ones: Triple = (1, 1, 1)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    inputs if i == 0 else outputs, outputs, kernel, stride if i == 0 else ones, bias=bias, eps=eps
                )
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Encoder(nn.Module):
    """Image -> features of every stage, finest first."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], stages: Sequence[nn.Module], stem: nn.Module | None
    ) -> None:
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.has_stem = stem is not None
        self.stages = nn.Sequential(*stages)
        self.widths = list(widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.has_stem:
            x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Features -> logits at full resolution; the heads of coarser levels are kept for their weights only."""

    def __init__(
        self, widths: Sequence[int], strides: Sequence[Triple], kernels: Sequence[Triple],
        counts: Sequence[int], classes: int, *, bias: bool, eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        ups, stages, heads = [], [], []
        for step, level in enumerate(reversed(range(len(widths) - 1))):
            stride = strides[level + 1]
            ups.append(nn.ConvTranspose3d(widths[level + 1], widths[level], stride, stride, bias=bias))
            stages.append(Stack(counts[step], 2 * widths[level], widths[level], kernels[level], bias=bias, eps=eps))
            heads.append(nn.Conv3d(widths[level], classes, 1))
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(ups), nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for number, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            x = stage(torch.cat((up(x), features[-(number + 2)]), dim=1))
        return self.seg_layers[-1](x)


class NnunetNetwork(nn.Module):
    """(B, C, X, Y, Z) -> (B, K, X, Y, Z) logits; extents must be multiples of the total stride."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))


def _per_stage(value: object, stages: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * stages


def _triple(value: Any) -> Triple:
    x, y, z = (int(v) for v in value) if isinstance(value, Sequence) else (int(value),) * 3
    return x, y, z


def _refuse(arguments: Mapping[str, Any], kind: str) -> None:
    wanted = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU", "dropout_op": "None"}
    for key, ending in wanted.items():
        if not str(arguments.get(key, ending)).endswith(ending):
            raise ConfigError(f"{kind}: {key} is {arguments[key]}; only {ending} is known here")
    for key in ("nonlin_first", "squeeze_excitation", "stem_channels"):
        if arguments.get(key):
            raise ConfigError(f"{kind}: {key} is set, which is not known here")


def build_nnunet(
    network_class: str, arguments: Mapping[str, Any], in_channels: int = 1, out_channels: int = 2
) -> NnunetNetwork:
    """The network that a plans file describes.

    Args:
        network_class: the class's name, with or without its module.
        arguments: `arch_kwargs` of the plans file.
        in_channels, out_channels: image channels and classes.

    Raises:
        ConfigError: another class, two dimensions, or an option that is not known here.
    """
    kind = network_class.rpartition(".")[2]
    if kind not in KNOWN_CLASSES:
        raise ConfigError(f"network {network_class}: only {' and '.join(KNOWN_CLASSES)} in 3D can be imported")
    fault = first_break(arguments, ARGUMENTS)
    if fault:
        raise ConfigError(f"{kind}: arch_kwargs::{fault}")
    _refuse(arguments, kind)
    counted = "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    if counted not in arguments:
        raise ConfigError(f"{kind}: arch_kwargs has no {counted}")
    stages = int(arguments["n_stages"])
    widths = [int(width) for width in _per_stage(arguments["features_per_stage"], stages)]
    kernels = [_triple(kernel) for kernel in _per_stage(arguments["kernel_sizes"], stages)]
    strides = [_triple(stride) for stride in _per_stage(arguments["strides"], stages)]
    common: dict[str, Any] = {
        "bias": bool(arguments.get("conv_bias", False)),
        "eps": float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
    }
    residual = kind == "ResidualEncoderUNet"
    counts = _per_stage(arguments[counted], stages)
    up_counts = [int(n) for n in _per_stage(arguments["n_conv_per_stage_decoder"], stages - 1)]
    if {len(widths), len(kernels), len(strides), len(counts), len(up_counts) + 1} != {stages}:
        raise ConfigError(
            f"{kind}: arch_kwargs: expected widths, kernels, strides and counts for {stages} stages (n_stages)"
        )
    made: list[nn.Module] = []
    inputs = widths[0] if residual else in_channels
    for count, width, kernel, stride in zip(counts, widths, kernels, strides, strict=True):
        if residual:
            made.append(ResidualStage(int(count), inputs, width, kernel, stride, **common))
        else:
            made.append(nn.Sequential(Stack(int(count), inputs, width, kernel, stride, **common)))
        inputs = width
    stem = Stack(1, in_channels, widths[0], kernels[0], **common) if residual else None
    decoder = Decoder(widths, strides, kernels, up_counts, out_channels, **common)
    return NnunetNetwork(Encoder(in_channels, widths, made, stem), decoder)


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trained state dict without the second names under which nnU-Net's modules repeat themselves."""
    plain = {key.removeprefix("_orig_mod.").removeprefix("module."): value for key, value in state.items()}
    return {k: v for k, v in plain.items() if ".all_modules." not in k and not k.startswith("decoder.encoder.")}
