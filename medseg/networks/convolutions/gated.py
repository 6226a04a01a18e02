"""Convolution kinds with a gate or a squeeze: gated spatial convolution, fused and plain inverted residuals."""

from torch import Tensor, nn

from ..contract import Site
from ..layers.common import DropPath, activation, convolution, image_norm, layer_scale


class SqueezeExcite(nn.Module):
    """Channel gate: sigmoid(expand(act(reduce(mean over the grid)))) times the image.

    Args:
        channels: of the image.
        hidden: of the bottleneck.
        act: activation between the two maps.
        bias: whether the two maps have one.
    """

    def __init__(self, channels: int, hidden: int, *, act: str = "gelu", bias: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=bias)
        self.act = activation(act)
        self.expand = nn.Linear(hidden, channels, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        pooled = image.flatten(2).mean(-1)
        gate = self.expand(self.act(self.reduce(pooled))).sigmoid()
        return image * gate.reshape([gate.shape[0], gate.shape[1]] + [1] * (image.ndim - 2))


class FusedMBConv(nn.Module):
    """GC ViT's residual: x + conv1(SE(GELU(depthwise conv3(x)))), no biases.

    Source: Hatamizadeh et al. 2023 (GC ViT), there called modified Fused-MBConv.
    """

    def __init__(self, site: Site, *, squeeze: float = 0.25) -> None:
        super().__init__()
        width = site.width
        self.depthwise = convolution(site.spatial_dims, width, width, site.kernel_size, groups=width, bias=False)
        self.act = nn.GELU()
        self.squeeze = SqueezeExcite(width, int(width * squeeze))
        self.pointwise = convolution(site.spatial_dims, width, width, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.pointwise(self.squeeze(self.act(self.depthwise(image))))


class MBConv(nn.Module):
    """Inverted residual with squeeze-excite: 1x1 expand, depthwise 3, SE, 1x1 project, pre-norm (MaxViT).

    Args:
        site: where it stands.
        expand: hidden channels per channel.
        squeeze: bottleneck of the SE per channel.

    Source: Tu et al. 2022 (MaxViT).
    """

    def __init__(self, site: Site, *, expand: int = 4, squeeze: float = 0.25) -> None:
        super().__init__()
        dims, width, hidden = site.spatial_dims, site.width, site.width * expand
        self.norm = image_norm(site.norm, dims, width)
        self.expand = convolution(dims, width, hidden, 1, bias=False)
        self.expand_norm = image_norm(site.norm, dims, hidden)
        self.depthwise = convolution(dims, hidden, hidden, site.kernel_size, groups=hidden, bias=False)
        self.depthwise_norm = image_norm(site.norm, dims, hidden)
        self.act = nn.GELU()
        self.squeeze = SqueezeExcite(hidden, int(width * squeeze), act="silu", bias=True)
        self.project = convolution(dims, hidden, width, 1)
        self.drop = DropPath(site.drop_path)

    def forward(self, image: Tensor) -> Tensor:
        branch = self.act(self.expand_norm(self.expand(self.norm(image))))
        branch = self.squeeze(self.act(self.depthwise_norm(self.depthwise(branch))))
        return image + self.drop(self.project(branch))


class GatedSpatialConv(nn.Module):
    """SegMamba's GSC: x + ReLU IN conv1( [ReLU IN conv3 ReLU IN conv3](x) + [ReLU IN conv1](x) ).

    Source: Xing et al. 2024 (SegMamba). The name is theirs; in the released form the two branches are added.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.local = nn.Sequential(*_unit(site, site.kernel_size), *_unit(site, site.kernel_size))
        self.pointwise = nn.Sequential(*_unit(site, 1))
        self.join = nn.Sequential(*_unit(site, 1))

    def forward(self, image: Tensor) -> Tensor:
        return image + self.join(self.local(image) + self.pointwise(image))


def _unit(site: Site, kernel: int | tuple[int, ...]) -> list[nn.Module]:
    return [
        convolution(site.spatial_dims, site.width, site.width, kernel),
        image_norm(site.norm, site.spatial_dims, site.width),
        nn.ReLU(inplace=True),
    ]


class ConvNeXt(nn.Module):
    """x + gamma * reduce(GELU(expand(norm(depthwise conv k(x))))).

    Args:
        site: where it stands.
        kernel: of the depthwise convolution, on every axis where the level's kernel is not 1.
        ratio: hidden channels per channel.

    Source: Liu et al. 2022.
    """

    def __init__(self, site: Site, *, kernel: int = 7, ratio: int = 4) -> None:
        super().__init__()
        dims, width = site.spatial_dims, site.width
        kernels = tuple(kernel if k > 1 else 1 for k in site.kernel_size)
        self.depthwise = convolution(dims, width, width, kernels, groups=width)
        self.norm = image_norm("layer", dims, width, eps=1e-6)
        self.expand = convolution(dims, width, ratio * width, 1)
        self.act = nn.GELU()
        self.reduce = convolution(dims, ratio * width, width, 1)
        self.gain = layer_scale(width, site.layer_scale, axis=1)
        self.drop = DropPath(site.drop_path)

    def forward(self, image: Tensor) -> Tensor:
        branch = self.reduce(self.act(self.expand(self.norm(self.depthwise(image)))))
        return image + self.drop(self.gain(branch))
