"""How a level is entered from the one above: strided convolutions, stems, patch embeddings and mergings."""

from torch import Tensor, nn

from medseg.networks.blocks import ConvNormAct
from medseg.networks.context import Site
from medseg.networks.layers import convolution, image_norm


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


def reach(site: Site, stride: tuple[int, ...]) -> tuple[int, ...]:
    """The level's kernel, but never shorter than 3 on an axis that is halved."""
    return tuple(3 if s > 1 else k for s, k in zip(stride, site.kernel_size, strict=True))


ENTRIES: dict[str, type[nn.Module]] = {"convolution": StridedConvolution, "bare": BareConvolution, "stem": Stem}
