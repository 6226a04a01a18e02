"""Steps between a level's tap and the decoder."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from .contract import Site
from .layers.common import ImageLayerNorm, RMSNorm, convolution, image_norm


class PlainLayerNorm(nn.Module):
    """Layer norm over the channels without gain or bias (Swin UNETR's taps)."""

    def forward(self, image: Tensor) -> Tensor:
        return functional.layer_norm(image.movedim(1, -1), [image.shape[1]]).movedim(-1, 1)


class ImageRMSNorm(nn.Module):
    """Root-mean-square norm over the channels (the end of Vim)."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.norm = RMSNorm(site.width)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(image.movedim(1, -1)).movedim(-1, 1)


class NormMLP(nn.Module):
    """Instance norm (without gain where the network's is) and a 1x1 MLP of ratio 2 without a residual (SegMamba's skips)."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        kind = "instance_plain" if site.norm == "instance_plain" else "instance"
        self.norm = image_norm(kind, site.spatial_dims, site.width)
        self.expand = convolution(site.spatial_dims, site.width, 2 * site.width, 1)
        self.reduce = convolution(site.spatial_dims, 2 * site.width, site.width, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.reduce(functional.gelu(self.expand(self.norm(image))))


SKIPS: dict[str, Callable[[Site], nn.Module]] = {
    "none": lambda site: nn.Identity(),
    "layer_norm": lambda site: ImageLayerNorm(site.width, eps=1e-6),
    "plain_layer_norm": lambda site: PlainLayerNorm(),
    "norm_mlp": NormMLP,
    "rms_norm": ImageRMSNorm,
}
