"""MedNeXt's blocks: depthwise convolution, group norm with one channel per group, expansion by 1x1, residual; also up and down.

Source: Roy et al. 2023.
"""

from torch import Tensor, nn

from ..contract import Site
from ..layers.common import CONVOLUTION, TRANSPOSED, convolution


class MedNeXt(nn.Module):
    """x + reduce(GELU(expand(norm(depthwise(x))))).

    Args:
        site: where it stands.
        kernel: of the depthwise convolution, on every axis where the level's kernel is not 1.
        ratio: hidden channels per channel.
    """

    def __init__(self, site: Site, *, kernel: int = 3, ratio: int = 2) -> None:
        super().__init__()
        kernels = tuple(kernel if k > 1 else 1 for k in site.kernel_size)
        self.depthwise = convolution(site.spatial_dims, site.width, site.width, kernels, groups=site.width)
        self.mix = PointwiseMix(site.spatial_dims, site.width, site.width, ratio)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.mix(self.depthwise(image))


class PointwiseMix(nn.Module):
    """reduce(GELU(expand(norm(x)))) from `channels_in` to `channels_out`, hidden `ratio * channels_in`."""

    def __init__(self, spatial_dims: int, channels_in: int, channels_out: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels_in, channels_in)
        self.expand = convolution(spatial_dims, channels_in, ratio * channels_in, 1)
        self.act = nn.GELU()
        self.reduce = convolution(spatial_dims, ratio * channels_in, channels_out, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.reduce(self.act(self.expand(self.norm(image))))


class MedNeXtDown(nn.Module):
    """Entry of a level: strided depthwise convolution and mix, beside a strided 1x1 shortcut."""

    def __init__(
        self, site: Site, channels_in: int, stride: tuple[int, ...], *, kernel: int = 3, ratio: int = 2
    ) -> None:
        super().__init__()
        dims = site.spatial_dims
        kernels = tuple(kernel if k > 1 or s > 1 else 1 for k, s in zip(site.kernel_size, stride, strict=True))
        self.depthwise = convolution(dims, channels_in, channels_in, kernels, stride, groups=channels_in)
        self.mix = PointwiseMix(dims, channels_in, site.width, ratio)
        self.shortcut = CONVOLUTION[dims](channels_in, site.width, 1, stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.mix(self.depthwise(image)) + self.shortcut(image)


class MedNeXtUp(nn.Module):
    """Way up: transposed depthwise convolution and mix, beside a transposed 1x1 shortcut, both padded at the near side."""

    def __init__(
        self, site: Site, channels_below: int, stride: tuple[int, ...], *, kernel: int = 3, ratio: int = 2
    ) -> None:
        super().__init__()
        dims, make = site.spatial_dims, TRANSPOSED[site.spatial_dims]
        kernels = tuple(kernel if k > 1 or s > 1 else 1 for k, s in zip(site.kernel_size, stride, strict=True))
        # An output of exactly stride * input: kernel - 2 * padding + output_padding = stride.
        padding = tuple(k // 2 for k in kernels)
        extra = tuple(s - k + 2 * p for s, k, p in zip(stride, kernels, padding, strict=True))
        self.depthwise = make(
            channels_below, channels_below, kernels, stride, padding, output_padding=extra, groups=channels_below
        )
        self.mix = PointwiseMix(dims, channels_below, site.width, ratio)
        self.shortcut = make(channels_below, site.width, 1, stride, output_padding=tuple(s - 1 for s in stride))

    def forward(self, image: Tensor) -> Tensor:
        return self.mix(self.depthwise(image)) + self.shortcut(image)
