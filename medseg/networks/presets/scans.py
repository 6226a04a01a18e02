"""Networks around Mamba's scan: SegMamba, U-Mamba, xLSTM-UNet, and the isotropic or pyramidal Vim, PlainMamba, MHS-VM."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..recipe import Layer, Level, NetworkSpec, Replace, TokensOrChannels, repeat
from .common import NANO_FINE, fine_levels

THREE_ORDERS = ("raster", "reversed raster", "interslice")
SEGMAMBA = {"selective_scan": {"traversals": THREE_ORDERS, "separate": True}}
SEGMAMBA_SIZES = {"published": ((48, 96, 192, 384), (2, 2, 2, 2))}
VIM_SIZES = {"tiny": (192, 24), "small": (384, 24), "base": (768, 24)}
PLAINMAMBA_SIZES = {"l1": (192, 24), "l2": (384, 24), "l3": (448, 36)}
PLAINMAMBA_STEMS = {"l1": 1, "l2": 2, "l3": 2}  # convolutions between the stem's first and the patches
PLAINMAMBA_DROPS = {"l1": 0.2, "l2": 0.2, "l3": 0.4}
# Forwards and backwards along two axis orders; in 2D the first two are rows, the others columns.
SNAKES = ("snake", "reversed snake", "snake:ZYX", "reversed snake:ZYX")
SNAKES_2D = ("snake", "reversed snake", "snake:YXZ", "reversed snake:YXZ")
MHS_VM_STAGES = ((96, 2), (192, 2), (384, 2), (768, 2))  # width, blocks
NNUNET = (32, 64, 128, 256, 320, 320)


def segmamba(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `segmamba`: gated spatial convolution, then tri-orientated scans, at every scale but the finest.

    The published inter-slice order is fixed to patches of 128 voxels; here it follows the grid.
    """
    norm = "instance" if size == "nano" else "instance_plain"  # the released norms have no gain
    if size == "nano":
        widths, counts, fine = (24, 40, 56, 72), (1, 1, 2, 2), 16
    else:
        (widths, counts), fine = SEGMAMBA_SIZES[size], 48
    levels = [Level(fine, entry="unetr_input", stride=1)]
    for index, (width, count) in enumerate(zip(widths, counts, strict=True)):
        options = dict(SEGMAMBA)
        if index == 0:
            options["entry"] = {"kernel": 7 if size != "nano" else 3}
        else:
            options["entry"] = {"norm": norm, "kernel": "stride"}
        levels.append(
            Level(
                width, ("gated_spatial_conv", *repeat("selective_scan", count)),
                entry="wide" if index == 0 else "norm_convolution", from_image=index == 0, skip="norm_mlp",
                options=options,
            )
        )  # fmt: skip
    # the decoder's widths double those of the encoder, as published (hidden 768)
    skips = [fine, *(2 * width for width in widths)] if size != "nano" else [fine, *widths[1:], 88]
    return NetworkSpec(
        levels=tuple(levels),
        norm=norm,
        decoder="unetr",
        decoder_options={"widths": skips, "blocks": [False, True, True, True, True], "finish": size != "nano"},
    )


def umamba_bot(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `umamba_bot`: residual U-Net with one scan at the bottleneck, in the place of the tokens."""
    scan = Replace("selective_scan")
    if size == "nano":
        return _nano_unet(lambda index: scan if index == 4 else None)
    return _umamba(lambda index: (scan,) if index == len(NNUNET) - 1 else ())


def umamba_enc(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `umamba_enc`: a scan after the blocks of every stage, in the place of the tokens (nano: but the finest)."""
    scan = Replace("selective_scan")
    if size == "nano":
        return _nano_unet(lambda index: scan if index > 0 else None)
    return _umamba(lambda index: (TokensOrChannels(scan),))


def xlstm_unet(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `xlstm_unet`: one residual block more in the first three stages, a ViL block in the others."""
    if size == "nano":
        return _nano_unet(lambda index: "mlstm" if index >= 3 else None)
    spec = _umamba(lambda index: ("residual",) if index < 3 else (TokensOrChannels("mlstm"),))
    return replace(spec, token_norm="layer_gain")


def _nano_unet(last: Callable[[int], Layer | None]) -> NetworkSpec:
    """Ours, for laptops: one residual block a level, then what `last` gives for it."""
    levels = []
    for index, width in enumerate((16, 32, 64, 80, 96)):
        extra = last(index)
        layers: tuple[Layer, ...] = ("residual",) if extra is None else ("residual", extra)
        levels.append(Level(width, layers, stride=1 if index == 0 else 2, num_heads=4))
    return NetworkSpec(levels=tuple(levels))


def _umamba(last: Callable[[int], tuple[Layer, ...]]) -> NetworkSpec:
    """The U-Net of U-Mamba: two blocks a stage as in nnU-Net's plan, one in the deeper half; a stem before the first stage.

    On the way up two blocks, one on the two finest levels.
    """
    levels = []
    for index, width in enumerate(NNUNET):
        count = 2 if index < len(NNUNET) // 2 else 1
        layers: tuple[Layer, ...] = repeat("residual", count - 1)
        if index == 0:  # the stem has as many blocks as the first stage
            layers = (*layers, "basic_residual", *layers)
        levels.append(
            Level(width, (*layers, *last(index)), entry="basic_residual", stride=1 if index == 0 else 2, num_heads=4)
        )
    return NetworkSpec(levels=tuple(levels), decoder="nearest", decoder_options={"num_blocks": [1, 1, 2, 2, 2]})


def vim(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `vim`: isotropic, forward and backward scans with parameters of their own, no MLP; RMS norm as published."""
    options = {"traversals": ("raster", "reversed raster"), "separate": True, "merge": "mean"}
    if size == "nano":
        return _isotropic(size, VIM_SIZES, options)
    return replace(_isotropic(size, VIM_SIZES, options, skip="rms_norm"), token_norm="rms")


def plainmamba(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `plainmamba`: isotropic, four snake orders that share everything, told apart by the step's direction.

    Every tensor follows its order here; the released code leaves step sizes and projections in raster order and counts
    the step's bias twice, so its weights give other numbers.
    """
    orders = SNAKES if spatial_dims == 3 else SNAKES_2D
    options = {"traversals": orders, "local_mix": "grid", "kernel": 7 if size != "nano" else 3, "step_write": True}
    if size == "nano":
        return _isotropic(size, PLAINMAMBA_SIZES, options)
    spec = _isotropic(size, PLAINMAMBA_SIZES, {**options, "bias": True})
    *fine, trunk = spec.levels
    stem = {"position": 14, "convolutions": PLAINMAMBA_STEMS[size]}
    layers = trunk.layers if size != "l1" else (trunk.layers[0], "depthwise", *trunk.layers[1:])
    trunk = replace(trunk, entry="stem_patchify", layers=layers, options={**trunk.options, "entry": stem})
    return replace(spec, levels=(*fine, trunk), drop_path=PLAINMAMBA_DROPS[size])


def _isotropic(
    size: str, sizes: dict[str, tuple[int, int]], options: dict[str, Any], skip: str = "layer_norm"
) -> NetworkSpec:
    width, count = (128, 6) if size == "nano" else sizes[size]
    trunk = Level(
        width, repeat("selective_scan", count), entry="patchify", from_image=True,
        options={"selective_scan": options, "entry": {"position": 14}},
        skip=skip,
    )  # fmt: skip
    fine = NANO_FINE if size == "nano" else fine_levels(32, 4)
    return NetworkSpec(levels=(*fine, trunk), drop_path=0.0 if size == "nano" else 0.1)


def mhs_vm(size: str, spatial_dims: int) -> NetworkSpec:
    """The preset `mhs_vm`: multi-head scans in the coarse stages of a U-Net; the widths of `base` are ours."""
    fine = NANO_FINE if size == "nano" else fine_levels(32, 2)
    stages = ((96, 3), (128, 2)) if size == "nano" else MHS_VM_STAGES
    coarse = tuple(Level(width, repeat("multi_head_scan mlp", count), num_heads=4) for width, count in stages)
    return NetworkSpec(levels=(*fine, *coarse), drop_path=0.0 if size == "nano" else 0.2)
