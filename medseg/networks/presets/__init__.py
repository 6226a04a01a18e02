"""Presets by name: each writes a published (or baseline) network in the words of recipe.py. One file, one family."""

from collections.abc import Callable
from dataclasses import dataclass

from ..recipe import NetworkSpec
from .ascan import ascan
from .baselines import MEDNEXT_SIZES, RESENC_SIZES, mednext, resenc_unet
from .fastervit import FASTERVIT_SIZES, fastervit
from .gcvit import GCVIT_SIZES, gcvit
from .hyena import hyena_unetr
from .mambavision import MAMBAVISION_SIZES, mambavision
from .recurrent import gated_deltanet_h1, gated_deltanet_h2, mamba2_hybrid
from .retention import VIR_SIZES, hvir, vir
from .scans import (
    PLAINMAMBA_SIZES,
    SEGMAMBA_SIZES,
    VIM_SIZES,
    mhs_vm,
    plainmamba,
    segmamba,
    umamba_bot,
    umamba_enc,
    vim,
    xlstm_unet,
)
from .swin import CSWIN_SIZES, MAXVIT_SIZES, SWIN_UNETR_SIZES, axial, cswin, maxvit, pctnet, swin_unetr, swin_unetr_v2
from .towers import paratranscnn


@dataclass(frozen=True)
class Preset:
    """A family of networks.

    Args:
        build: (size, spatial_dims) -> specification.
        larger: names of the published sizes, smallest first, or `base`, which is ours, where none is published for
            images; every preset also has `nano`, which trains on a laptop.
        summary: one line for listings.
        source: the publication.
    """

    build: Callable[[str, int], NetworkSpec]
    larger: tuple[str, ...]
    summary: str
    source: str

    @property
    def sizes(self) -> tuple[str, ...]:
        """Every size, smallest first."""
        return ("nano", *self.larger)


OURS = ("base",)
PRESETS: dict[str, Preset] = {
    "ascan": Preset(ascan, OURS, "convolution and attention blocks in given patterns", "after Kag et al. 2024 (AsCAN)"),
    "axial": Preset(axial, OURS, "attention along one axis per group of heads", "Ho et al. 2019"),
    "cswin": Preset(cswin, tuple(CSWIN_SIZES), "attention in cross-shaped stripes", "Dong et al. 2022"),
    "fastervit": Preset(
        fastervit, tuple(FASTERVIT_SIZES), "convolutions, then windows with carrier tokens", "Hatamizadeh et al. 2023"
    ),
    "gated_deltanet_h1": Preset(
        gated_deltanet_h1, OURS, "gated delta rule and sliding-window attention in turn", "Yang et al. 2024"
    ),
    "gated_deltanet_h2": Preset(
        gated_deltanet_h2, OURS, "Mamba-2, gated delta rule and sliding-window attention in turn", "Yang et al. 2024"
    ),
    "gcvit": Preset(gcvit, tuple(GCVIT_SIZES), "local windows and a global query in turn", "Hatamizadeh et al. 2023"),
    "hvir": Preset(hvir, OURS, "convolutions, then retention", "after Hatamizadeh et al. 2023 (ViR)"),
    "hyena_unetr": Preset(
        hyena_unetr, OURS, "convolutions, then gated convolutions as long as the grid", "after Poli et al. 2023 (Hyena)"
    ),
    "mamba2_hybrid": Preset(
        mamba2_hybrid, OURS, "Mamba-2, MLP and attention layers in published proportions", "Waleffe et al. 2024"
    ),
    "mambavision": Preset(
        mambavision, tuple(MAMBAVISION_SIZES), "convolutions, then scans followed by attention",
        "Hatamizadeh and Kautz 2024",
    ),
    "maxvit": Preset(maxvit, tuple(MAXVIT_SIZES), "inverted residual, block and grid attention", "Tu et al. 2022"),
    "mednext": Preset(mednext, tuple(MEDNEXT_SIZES), "ConvNeXt-like U-Net, a baseline", "Roy et al. 2023"),
    "mhs_vm": Preset(mhs_vm, OURS, "multi-head scans fused by their agreement", "Ji 2024"),
    "paratranscnn": Preset(paratranscnn, ("published",), "convolution and transformer towers", "Sun et al. 2024"),
    "pctnet": Preset(pctnet, ("published",), "parallel convolution and Swin branches", "Wang et al. 2023 (MIS-FM)"),
    "plainmamba": Preset(plainmamba, tuple(PLAINMAMBA_SIZES), "snake scans at one resolution", "Yang et al. 2024"),
    "resenc_unet": Preset(
        resenc_unet, tuple(RESENC_SIZES), "residual-encoder U-Net, the baseline of every hybrid",
        "Isensee et al. 2024 (nnU-Net ResEnc)",
    ),
    "segmamba": Preset(
        segmamba, tuple(SEGMAMBA_SIZES), "gated convolutions and tri-orientated scans", "Xing et al. 2024"
    ),
    "swin_unetr": Preset(
        swin_unetr, tuple(SWIN_UNETR_SIZES), "shifted windows with a convolution decoder", "Hatamizadeh et al. 2022"
    ),
    "swin_unetr_v2": Preset(
        swin_unetr_v2, tuple(SWIN_UNETR_SIZES), "Swin UNETR with a convolution before each stage", "He et al. 2023"
    ),
    "umamba_bot": Preset(umamba_bot, ("published",), "residual U-Net, a scan at the bottleneck", "Ma et al. 2024"),
    "umamba_enc": Preset(umamba_enc, ("published",), "residual U-Net, a scan in every stage", "Ma et al. 2024"),
    "vim": Preset(vim, tuple(VIM_SIZES), "two-way scans at one resolution", "Zhu et al. 2024"),
    "vir": Preset(vir, tuple(VIR_SIZES), "retention at one resolution", "Hatamizadeh et al. 2023 (ViR)"),
    "xlstm_unet": Preset(xlstm_unet, ("published",), "residual U-Net with mLSTM blocks", "Chen et al. 2024"),
}  # fmt: skip
