"""How a level is entered from the one above: strided convolutions, stems, patch embeddings and mergings."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError

from .contract import Site
from .convolutions.gated import FusedMBConv
from .convolutions.mednext import MedNeXtDown
from .convolutions.plain import BasicResidual, ConvNormAct, ResidualDown
from .convolutions.unetr import UnetrBlock
from .layers.common import CONVOLUTION, MAX_POOL, convolution, image_norm, pad_to_multiple, to_image, to_tokens


class StridedConvolution(nn.Module):
    """Strided convolution, norm, activation (nnU-Net's way down); at stride 1 it only changes the width."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.block = ConvNormAct(site, channels_in, site.width, stride=stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(image)


class BareConvolution(nn.Module):
    """A strided convolution without bias, norm or activation (MambaVision's way down)."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution = convolution(
            site.spatial_dims, channels_in, site.width, reach(site, stride), stride, bias=False
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.convolution(image)


class Stem(nn.Module):
    """One step of the NVIDIA hybrids' stem: convolution of stride 2 without bias, norm (eps 1e-4), ReLU."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        kernel = reach(site, stride)
        self.convolution = convolution(site.spatial_dims, channels_in, site.width, kernel, stride, bias=False)
        self.norm = image_norm(site.norm, site.spatial_dims, site.width, eps=1e-4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.norm(self.convolution(image)))


class NormConvolution(nn.Module):
    """A norm, then a strided convolution (FasterViT: layer norm, kernel 3, no bias; SegMamba: instance norm, kernel 2).

    Args:
        site, channels_in, stride: as in every entry.
        norm: `layer` (eps 1e-6) or `instance`.
        kernel: `reach` (3 where halved) or `stride` (as long as the stride).
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, norm: str = "layer",
                 kernel: str = "reach") -> None:  # fmt: skip
        super().__init__()
        dims = site.spatial_dims
        self.norm = image_norm(norm, dims, channels_in, eps=1e-6 if norm == "layer" else 1e-5)
        self.multiple = list(stride) if kernel == "stride" else [1] * dims
        if kernel == "stride":
            self.convolution = CONVOLUTION[dims](channels_in, site.width, stride, stride)
        else:
            self.convolution = convolution(dims, channels_in, site.width, reach(site, stride), stride, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.convolution(pad_to_multiple(self.norm(image), self.multiple))


class Patchify(nn.Module):
    """Non-overlapping patches to tokens: a convolution as long as its stride, with a bias.

    Args:
        site, channels_in, stride: as in every entry.
        norm: `none` or `layer` after it.
        position: length per axis of the learned position table, None without; see `AxisPosition`.
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, norm: str = "none",
                 position: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.convolution = CONVOLUTION[site.spatial_dims](channels_in, site.width, stride, stride)
        self.norm = image_norm(norm, site.spatial_dims, site.width)
        self.position: nn.Module = nn.Identity()
        if position is not None:
            self.position = AxisPosition(site.spatial_dims, site.width, position)
        self.stride = list(stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.position(self.norm(self.convolution(pad_to_multiple(image, self.stride))))


class StemPatchify(nn.Module):
    """A strided convolution of 7 and more of 3, each with norm and ReLU, then patches of half the stride (PlainMamba).

    Args:
        site, channels_in, stride: as in every entry.
        width: of the stem.
        convolutions: of kernel 3 behind the first.
        position: length per axis of the learned position table; see `AxisPosition`.
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, width: int = 64, convolutions: int = 1,
                 position: int = 14) -> None:  # fmt: skip
        super().__init__()
        first = tuple(2 if s % 2 == 0 else 1 for s in stride)
        rest = tuple(s // f for s, f in zip(stride, first, strict=True))
        steps: list[nn.Module] = []
        for index in range(1 + convolutions):
            kernels = tuple(7 if f > 1 else k for f, k in zip(first, site.kernel_size, strict=True))
            steps += [
                convolution(
                    site.spatial_dims, width if index else channels_in, width, site.kernel_size if index else kernels,
                    1 if index else first, bias=False,
                ),
                image_norm(site.norm, site.spatial_dims, width),
                nn.ReLU(inplace=True),
            ]  # fmt: skip
        self.stem = nn.Sequential(*steps)
        self.patches = Patchify(site, width, rest, position=position)

    def forward(self, image: Tensor) -> Tensor:
        return self.patches(self.stem(image))


class WideConvolution(nn.Module):
    """A convolution wider than its stride, with a bias: the stems of SegMamba (7 / 2) and CSWin (7 / 4).

    Args:
        site, channels_in, stride: as in every entry.
        kernel: on every axis that is halved.
        norm: `none` or `layer` after it.
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, kernel: int = 7,
                 norm: str = "none") -> None:  # fmt: skip
        super().__init__()
        kernels = tuple(kernel if k > 1 or s > 1 else 1 for k, s in zip(site.kernel_size, stride, strict=True))
        self.convolution = convolution(site.spatial_dims, channels_in, site.width, kernels, stride)
        self.norm = image_norm(norm, site.spatial_dims, site.width)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.convolution(image))


class ReduceSize(nn.Module):
    """GC ViT's way down: layer norm, fused MBConv, strided convolution without bias, layer norm."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        dims = site.spatial_dims
        self.before = image_norm("layer", dims, channels_in)
        self.residual = FusedMBConv(replace(site, width=channels_in))
        self.reduce = convolution(dims, channels_in, site.width, reach(site, stride), stride, bias=False)
        self.after = image_norm("layer", dims, site.width)

    def forward(self, image: Tensor) -> Tensor:
        return self.after(self.reduce(self.residual(self.before(image))))


class PatchMerging(nn.Module):
    """Swin's way down: the voxels of each block side by side as channels, layer norm, linear map.

    Args:
        site, channels_in, stride: as in every entry; the stride is 1 or 2 per axis.
        order: `raster`, or `monai` for the order of corners that MONAI's weights are written in; `monai_cube` is that of
            0.1, which had it only where three axes are halved.
    """

    corners: Tensor

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, order: str = "raster") -> None:
        super().__init__()
        if max(stride) > 2:
            raise ConfigError(f"patch merging: found stride {stride}, expected 1 or 2 per axis")
        corners = list(range(math.prod(stride)))
        if order not in ("raster", "monai", "monai_cube"):
            raise ConfigError(f"patch merging: found order {order!r}, expected raster, monai or monai_cube")
        halved = sum(s > 1 for s in stride)
        if order != "raster" and halved == 3:
            corners = [0, 4, 2, 1, 6, 5, 3, 7]  # corner (x, y, z) of a cube is number 4 x + 2 y + z
        elif order == "monai" and halved == 2:
            corners = [0, 2, 1, 3]  # the first of the two axes fastest
        self.stride = list(stride)
        self.norm = nn.LayerNorm(len(corners) * channels_in)
        self.reduction = nn.Linear(len(corners) * channels_in, site.width, bias=False)
        self.register_buffer("corners", torch.tensor(corners), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = to_tokens(pad_to_multiple(image, self.stride))
        sx, sy = self.stride[0], self.stride[1]
        sz = self.stride[2] if image.ndim == 5 else 1
        x = x.reshape(x.shape[0], x.shape[1] // sx, sx, x.shape[2] // sy, sy, x.shape[3] // sz, sz, x.shape[4])
        blocks = x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6)
        return to_image(self.reduction(self.norm(blocks[:, :, :, :, self.corners].flatten(4))), image.ndim - 2)


class PooledConvolution(nn.Module):
    """Max pooling, then norm, PReLU and a convolution that changes the width (PCT-Net's way down)."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.pool: nn.Module = MAX_POOL[site.spatial_dims](stride, stride, ceil_mode=True)
        self.norm = image_norm(site.norm, site.spatial_dims, channels_in)
        self.act = nn.PReLU()
        self.convolution = convolution(site.spatial_dims, channels_in, site.width, site.kernel_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.convolution(self.act(self.norm(self.pool(image))))


class AxisPosition(nn.Module):
    """Learned positions: the sum of one table per axis, resized linearly to the grid.

    Args:
        spatial_dims: 2 or 3.
        width: channels.
        length: entries of each table; the grid of the training patch makes the resizing an identity.
    """

    def __init__(self, spatial_dims: int, width: int, length: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(1, width, length) * 0.02) for _ in range(spatial_dims))
        for table in self.tables:
            table.no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, image: Tensor) -> Tensor:
        for axis, table in enumerate(self.tables):
            resized = functional.interpolate(table, size=image.shape[axis + 2], mode="linear", align_corners=False)
            shape = [1, image.shape[1]] + [1] * (image.ndim - 2)
            shape[axis + 2] = image.shape[axis + 2]
            image = image + resized.reshape(shape)
        return image


class BiasedConvolution(nn.Module):
    """A convolution with a bias and nothing else: GC ViT's first step (strided) and MedNeXt's (1x1).

    Args:
        site, channels_in, stride: as in every entry.
        kernel: 1, or None for 3 where the axis is halved.
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...], *, kernel: int | None = None) -> None:
        super().__init__()
        kernels = reach(site, stride) if kernel is None else (kernel,) * site.spatial_dims
        self.convolution = convolution(site.spatial_dims, channels_in, site.width, kernels, stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.convolution(image)


class Pointwise(BiasedConvolution):
    """A 1x1 convolution with a bias."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__(site, channels_in, stride, kernel=1)


class ConvolutionNorm(nn.Module):
    """A strided convolution with a bias, then layer norm (CSWin's way down)."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution = convolution(site.spatial_dims, channels_in, site.width, reach(site, stride), stride)
        self.norm = image_norm("layer", site.spatial_dims, site.width)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.convolution(image))


class UnetrInput(nn.Module):
    """A residual block on the image itself (the first skip of the UNETR family)."""

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.block = UnetrBlock(site, channels_in)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(image)


def reach(site: Site, stride: tuple[int, ...]) -> tuple[int, ...]:
    """The level's kernel, but never shorter than 3 on an axis that is halved."""
    return tuple(3 if s > 1 else k for s, k in zip(stride, site.kernel_size, strict=True))


ENTRIES: dict[str, type[nn.Module]] = {
    "convolution": StridedConvolution,
    "basic_residual": BasicResidual,
    "residual": ResidualDown,
    "bare": BareConvolution,
    "stem": Stem,
    "norm_convolution": NormConvolution,
    "patchify": Patchify,
    "stem_patchify": StemPatchify,
    "wide": WideConvolution,
    "reduce_size": ReduceSize,
    "patch_merging": PatchMerging,
    "mednext": MedNeXtDown,
    "pooled": PooledConvolution,
    "biased": BiasedConvolution,
    "pointwise": Pointwise,
    "convolution_norm": ConvolutionNorm,
    "unetr_input": UnetrInput,
}
