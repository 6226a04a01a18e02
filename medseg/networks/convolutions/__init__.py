"""Convolution blocks by name."""

from torch import nn

from .gated import ConvNeXt, FusedMBConv, GatedSpatialConv, MBConv
from .mednext import MedNeXt
from .plain import BasicResidual, Depthwise, HybridConv, PlainConv, PreActivationConv, ResidualConv
from .unetr import UnetrBlock

CONVOLUTIONS: dict[str, type[nn.Module]] = {
    "basic_residual": BasicResidual,
    "convnext": ConvNeXt,
    "depthwise": Depthwise,
    "fused_mbconv": FusedMBConv,
    "gated_spatial_conv": GatedSpatialConv,
    "hybrid_conv": HybridConv,
    "mbconv": MBConv,
    "mednext": MedNeXt,
    "plain": PlainConv,
    "pre_activation": PreActivationConv,
    "residual": ResidualConv,
    "unetr": UnetrBlock,
}
