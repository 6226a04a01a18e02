"""Convolution kinds of the encoder stages, on channel-first images (B, C, X, Y[, Z]); each keeps the grid and the width."""

from torch import Tensor, nn

from ..contract import Site
from ..layers.common import AVERAGE_POOL, CONVOLUTION, DropPath, activation, convolution, image_norm


class ConvNormAct(nn.Module):
    """Convolution, norm, activation: the unit of nnU-Net's networks."""

    def __init__(self, site: Site, channels_in: int, channels_out: int, *, kernel: int | tuple[int, ...] | None = None,
                 stride: int | tuple[int, ...] = 1, act: bool = True) -> None:  # fmt: skip
        super().__init__()
        kernel = site.kernel_size if kernel is None else kernel
        # A norm follows and takes the mean away, so a bias of the convolution would be a parameter without effect.
        self.convolution = convolution(
            site.spatial_dims, channels_in, channels_out, kernel, stride, bias=site.norm == "none"
        )
        self.norm = image_norm(site.norm, site.spatial_dims, channels_out)
        self.act = activation(site.activation) if act else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.norm(self.convolution(image)))


class ResidualConv(nn.Module):
    """Two convolutions with a shortcut, activation after the sum (the block of nnU-Net's residual encoder)."""

    def __init__(self, site: Site, *, channels_in: int | None = None) -> None:
        super().__init__()
        channels_in = site.width if channels_in is None else channels_in
        self.first = ConvNormAct(site, channels_in, site.width)
        self.second = ConvNormAct(site, site.width, site.width, act=False)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != site.width:
            self.shortcut = ConvNormAct(site, channels_in, site.width, kernel=1, act=False)
        self.drop = DropPath(site.drop_path)
        self.act = activation(site.activation)

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.shortcut(image) + self.drop(self.second(self.first(image))))


class BasicResidual(nn.Module):
    """U-Mamba's residual block: the shortcut is always a 1x1 convolution with a bias and without a norm.

    Args:
        site: where it stands.
        channels_in: of the image, those of the site by default.
        stride: of the first convolution and the shortcut; a block in an encoder's stage has none.
    """

    def __init__(self, site: Site, channels_in: int | None = None, stride: tuple[int, ...] | None = None) -> None:
        super().__init__()
        steps = (1,) * site.spatial_dims if stride is None else stride
        channels_in = site.width if channels_in is None else channels_in
        kernel = tuple(3 if s > 1 else k for s, k in zip(steps, site.kernel_size, strict=True))
        self.first = ConvNormAct(site, channels_in, site.width, kernel=kernel, stride=steps)
        self.second = ConvNormAct(site, site.width, site.width, act=False)
        self.shortcut = CONVOLUTION[site.spatial_dims](channels_in, site.width, 1, steps)
        self.drop = DropPath(site.drop_path)
        self.act = activation(site.activation)

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.shortcut(image) + self.drop(self.second(self.first(image))))


class ResidualDown(nn.Module):
    """The first block of a level of nnU-Net's residual encoder: the strided step is its first convolution.

    The shortcut is the mean over the stride, then a normed 1x1 convolution where the width changes.
    """

    def __init__(self, site: Site, channels_in: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        kernel = tuple(3 if s > 1 else k for s, k in zip(stride, site.kernel_size, strict=True))
        self.first = ConvNormAct(site, channels_in, site.width, kernel=kernel, stride=stride)
        self.second = ConvNormAct(site, site.width, site.width, act=False)
        # a rounded-up size has a last, shorter group of voxels: their mean, as the strided convolution has a voxel there
        self.pool = AVERAGE_POOL[site.spatial_dims](stride, stride, ceil_mode=True, count_include_pad=False)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != site.width:
            self.shortcut = ConvNormAct(site, channels_in, site.width, kernel=1, act=False)
        self.act = activation(site.activation)

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.shortcut(self.pool(image)) + self.second(self.first(image)))


class PlainConv(nn.Module):
    """One convolution, norm, activation, without a shortcut: the cheapest step at full resolution."""

    def __init__(self, site: Site, *, channels_in: int | None = None) -> None:
        super().__init__()
        self.block = ConvNormAct(site, site.width if channels_in is None else channels_in, site.width)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(image)


class HybridConv(nn.Module):
    """The convolution block of MambaVision and FasterViT: x + gamma * norm(conv(GELU(norm(conv(x))))).

    Args:
        site: where it stands.
        gelu: `gelu_tanh` (MambaVision) or `gelu` (FasterViT).

    Source: Hatamizadeh and Kautz 2024 (MambaVision), Hatamizadeh et al. 2023 (FasterViT).
    """

    def __init__(self, site: Site, *, gelu: str = "gelu_tanh") -> None:
        super().__init__()
        self.first = convolution(site.spatial_dims, site.width, site.width, site.kernel_size)
        self.first_norm = image_norm(site.norm, site.spatial_dims, site.width)
        self.act = activation(gelu)
        self.second = convolution(site.spatial_dims, site.width, site.width, site.kernel_size)
        self.second_norm = image_norm(site.norm, site.spatial_dims, site.width)
        # no layer scale, whatever the network's: released sizes have it on token blocks only
        self.drop = DropPath(site.drop_path)

    def forward(self, image: Tensor) -> Tensor:
        branch = self.act(self.first_norm(self.first(image)))
        return image + self.drop(self.second_norm(self.second(branch)))


class PreActivationConv(nn.Module):
    """Norm, PReLU, convolution, twice, without a shortcut (PCT-Net's block); one slope for all channels."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for _ in range(2):
            steps += [image_norm(site.norm, site.spatial_dims, site.width), nn.PReLU()]
            steps += [convolution(site.spatial_dims, site.width, site.width, site.kernel_size)]
        self.steps = nn.Sequential(*steps)

    def forward(self, image: Tensor) -> Tensor:
        return self.steps(image)


class Depthwise(nn.Module):
    """GELU(norm(depthwise convolution of 3)) in the place of the image (behind the first layer of PlainMamba's size l1)."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.convolution = convolution(
            site.spatial_dims, site.width, site.width, site.kernel_size, groups=site.width, bias=False
        )
        self.norm = image_norm(site.norm, site.spatial_dims, site.width)
        self.act = nn.GELU()

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.norm(self.convolution(image)))
