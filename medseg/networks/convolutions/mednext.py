"""MedNeXt's blocks: depthwise convolution, group norm with one channel per group, expansion by 1x1, residual; also up and down.

Source: Roy et al. 2023; response norm: the released version 2 (`grn`), after Woo et al. 2023 (ConvNeXt V2).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..contract import Site
from ..layers.common import CONVOLUTION, TRANSPOSED, convolution


class MedNeXt(nn.Module):
    """x + reduce(GELU(expand(norm(depthwise(x))))).

    Args:
        site: where it stands.
        kernel: of the depthwise convolution, on every axis where the level's kernel is not 1.
        ratio: hidden channels per channel.
        grn: global response norm of the hidden channels (version 2).
    """

    def __init__(self, site: Site, *, kernel: int = 3, ratio: int = 2, grn: bool = False) -> None:
        super().__init__()
        kernels = tuple(kernel if k > 1 else 1 for k in site.kernel_size)
        self.depthwise = convolution(site.spatial_dims, site.width, site.width, kernels, groups=site.width)
        self.mix = PointwiseMix(site.spatial_dims, site.width, site.width, ratio, grn=grn)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.mix(self.depthwise(image))


class PointwiseMix(nn.Module):
    """reduce(GELU(expand(norm(x)))) from `channels_in` to `channels_out`, hidden `ratio * channels_in`; `grn` after GELU."""

    def __init__(
        self, spatial_dims: int, channels_in: int, channels_out: int, ratio: int, *, grn: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels_in, channels_in)
        self.expand = convolution(spatial_dims, channels_in, ratio * channels_in, 1)
        self.act = nn.GELU()
        self.response = ResponseNorm(spatial_dims, ratio * channels_in) if grn else nn.Identity()
        self.reduce = convolution(spatial_dims, ratio * channels_in, channels_out, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.reduce(self.response(self.act(self.expand(self.norm(image)))))


class ResponseNorm(nn.Module):
    """x + gamma * x * n + beta, where n is each channel's length over space divided by the mean length over channels.

    gamma and beta start at 0, so that a new one changes nothing.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        shape = (1, channels, *(1,) * spatial_dims)
        self.gamma, self.beta = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, image: Tensor) -> Tensor:
        length = image.flatten(2).norm(dim=2)
        share = length / (length.mean(dim=1, keepdim=True) + 1e-6)
        share = share.reshape([image.shape[0], image.shape[1]] + [1] * (image.ndim - 2))
        return image + self.gamma * (image * share) + self.beta


class MedNeXtDown(nn.Module):
    """Entry of a level: strided depthwise convolution and mix, beside a strided 1x1 shortcut."""

    def __init__(
        self,
        site: Site,
        channels_in: int,
        stride: tuple[int, ...],
        *,
        kernel: int = 3,
        ratio: int = 2,
        grn: bool = False,
    ) -> None:
        super().__init__()
        dims = site.spatial_dims
        kernels = tuple(kernel if k > 1 or s > 1 else 1 for k, s in zip(site.kernel_size, stride, strict=True))
        self.depthwise = convolution(dims, channels_in, channels_in, kernels, stride, groups=channels_in)
        self.mix = PointwiseMix(dims, channels_in, site.width, ratio, grn=grn)
        self.shortcut = CONVOLUTION[dims](channels_in, site.width, 1, stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.mix(self.depthwise(image)) + self.shortcut(image)


class MedNeXtUp(nn.Module):
    """Way up: transposed depthwise convolution and mix, beside a transposed 1x1 shortcut.

    Both give (n - 1) stride + 1 voxels per axis, and are filled up to n stride with zero planes on the near side before they
    are added, as in the released code. So the last voxel of a level lies over the last one of the level below.
    """

    def __init__(
        self,
        site: Site,
        channels_below: int,
        stride: tuple[int, ...],
        *,
        kernel: int = 3,
        ratio: int = 2,
        grn: bool = False,
    ) -> None:
        super().__init__()
        dims, make = site.spatial_dims, TRANSPOSED[site.spatial_dims]
        # odd kernels, so that the branch is as long as the shortcut
        kernels = tuple(kernel | 1 if k > 1 or s > 1 else 1 for k, s in zip(site.kernel_size, stride, strict=True))
        padding = tuple(k // 2 for k in kernels)
        self.depthwise = make(channels_below, channels_below, kernels, stride, padding, groups=channels_below)
        self.mix = PointwiseMix(dims, channels_below, site.width, ratio, grn=grn)
        self.shortcut = make(channels_below, site.width, 1, stride)
        self.missing: list[int] = [side for s in reversed(stride) for side in (s - 1, 0)]

    def forward(self, image: Tensor) -> Tensor:
        return functional.pad(self.mix(self.depthwise(image)) + self.shortcut(image), self.missing)
