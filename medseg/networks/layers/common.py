"""The small parts every stage is made of: per-axis convolutions, norms, layer scale, stochastic depth, layout changes.

Images are channel-first (B, C, X, Y[, Z]); tokens are channels-last (B, X, Y, Z, C), with Z = 1 in 2D.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError

from .batch_rows import draw_uniform
from .conv3d import Conv3d

CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAX_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def per_axis(value: int | Sequence[int], spatial_dims: int, name: str = "value") -> tuple[int, ...]:
    """`value` as one integer per spatial axis; a single integer holds for all of them."""
    if isinstance(value, int):
        return (value,) * spatial_dims
    values = tuple(int(v) for v in value)
    if len(values) != spatial_dims:
        raise ConfigError(
            f"{name}: found {values}, expected one integer or {spatial_dims} of them (one per spatial axis)"
        )
    return values


def convolution(
    spatial_dims: int,
    channels_in: int,
    channels_out: int,
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    *,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """An n-D convolution padded so that stride 1 keeps the grid; kernel and stride may differ per axis."""
    kernels = per_axis(kernel, spatial_dims, "kernel")
    strides = per_axis(stride, spatial_dims, "stride")
    padding = tuple(k // 2 for k in kernels)
    return CONVOLUTION[spatial_dims](
        channels_in, channels_out, kernels, strides, padding=padding, groups=groups, bias=bias
    )


class ImageLayerNorm(nn.Module):
    """Layer norm over the channels of a channel-first image."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(image.movedim(1, -1)).movedim(-1, 1)


def wide(x: Tensor) -> Tensor:
    """In the type that decays, states and statistics are computed in: float32, or float64 for float64."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, at least in float32, with one gain per channel."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = wide(x)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * wide(self.weight)).to(x.dtype)


def image_norm(kind: str, spatial_dims: int, channels: int, eps: float = 1e-5) -> nn.Module:
    """A norm for channel-first images: `instance`, `instance_plain` (no gain), `batch`, `layer` (over channels) or `none`."""
    if kind in ("instance", "instance_plain"):
        # Group norm with one channel per group is instance norm; it is the faster of the two on a CPU and accepts a
        # grid of a single voxel while training.
        return nn.GroupNorm(channels, channels, eps=eps, affine=kind == "instance")
    if kind == "batch":
        return BATCH_NORM[spatial_dims](channels, eps=eps)
    if kind == "layer":
        return ImageLayerNorm(channels, eps=eps)
    if kind == "none":
        return nn.Identity()
    raise ConfigError(f"norm: found {kind!r}, expected instance, instance_plain, batch, layer or none")


def token_norm(kind: str, width: int, eps: float = 1e-5) -> nn.Module:
    """A norm over the last axis of tokens: `layer`, `layer_gain` (no offset), `layer_plain` (neither), `rms` or `none`."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps)
    if kind == "layer_gain":
        return nn.LayerNorm(width, eps=eps, bias=False)
    if kind == "layer_plain":
        return nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    if kind == "rms":
        return RMSNorm(width, eps=eps)
    if kind == "none":
        return nn.Identity()
    raise ConfigError(f"token norm: found {kind!r}, expected layer, layer_gain, layer_plain, rms or none")


def activation(kind: str) -> nn.Module:
    """An activation by name: `relu`, `leaky_relu`, `gelu`, `gelu_tanh`, `silu`, `prelu`, `none`."""
    kinds: dict[str, nn.Module] = {
        "relu": nn.ReLU(inplace=True),
        "leaky_relu": nn.LeakyReLU(0.01, inplace=True),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "silu": nn.SiLU(),
        "prelu": nn.PReLU(),
        "none": nn.Identity(),
    }
    if kind not in kinds:
        raise ConfigError(f"activation: found {kind!r}, expected one of {', '.join(kinds)}")
    return kinds[kind]


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is dropped with probability `rate`, the others are scaled up."""

    rate: Final[float]

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = float(rate)

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            drawn = torch.rand(branch.shape[0], device=branch.device)
        else:
            drawn = draw_uniform(branch.shape[0], branch.device)
        keep = (drawn >= self.rate).view([branch.shape[0]] + [1] * (branch.ndim - 1))
        return branch * keep.to(branch.dtype) / (1.0 - self.rate)


class LayerScale(nn.Module):
    """One learned gain per channel of a residual branch; `axis` is where the channels are."""

    axis: Final[int]

    def __init__(self, width: int, initial: float, *, axis: int = -1) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), float(initial)))
        self.axis = axis

    def forward(self, branch: Tensor) -> Tensor:
        if self.axis == -1:
            return branch * self.gamma
        return branch * self.gamma.reshape([1, -1] + [1] * (branch.ndim - 2))


def layer_scale(width: int, initial: float | None, *, axis: int = -1) -> nn.Module:
    """Layer scale, or nothing when `initial` is None."""
    return nn.Identity() if initial is None else LayerScale(width, initial, axis=axis)


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, X, Y[, Z]) -> (B, X, Y, Z, C); a view, with Z = 1 for 2D images."""
    if image.ndim == 4:
        image = image.unsqueeze(-1)
    return image.permute(0, 2, 3, 4, 1)


def to_image(tokens: Tensor, spatial_dims: int) -> Tensor:
    """(B, X, Y, Z, C) -> (B, C, X, Y[, Z]); a view."""
    image = tokens.permute(0, 4, 1, 2, 3)
    return image.squeeze(-1) if spatial_dims == 2 else image


def crop_like(image: Tensor, like: Tensor) -> Tensor:
    """The near corner of `image` on the grid of `like`: undoes the rounding up of a strided convolution."""
    if image.ndim == 4:
        return image[:, :, : like.shape[2], : like.shape[3]]
    return image[:, :, : like.shape[2], : like.shape[3], : like.shape[4]]


def resize(image: Tensor, grid: list[int]) -> Tensor:
    """Linear interpolation to `grid` with voxel centres aligned at the corners of the volume (align_corners=False)."""
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    return functional.interpolate(image, size=grid, mode=mode, align_corners=False)


def fill_windows(tokens: Tensor, window: list[int]) -> Tensor:
    """(B, X, Y, Z, C) with zeros at the far end of every axis, up to whole windows; `window` has two or three sides."""
    padding: list[int] = [0, 0]
    for axis in [2, 1, 0]:
        side = window[axis] if axis < len(window) else 1
        padding.append(0)
        padding.append((side - tokens.shape[axis + 1] % side) % side)
    return functional.pad(tokens, padding)


def crop_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """The near corner of (B, X, Y, Z, C) on the grid of `like`."""
    return tokens[:, : like.shape[1], : like.shape[2], : like.shape[3]]


def pad_to_multiple(image: Tensor, multiple: list[int]) -> Tensor:
    """Zeros at the far end of every axis, up to a multiple of `multiple` per axis."""
    padding: list[int] = []
    for index in range(len(multiple)):
        axis = len(multiple) - 1 - index  # functional.pad takes the last axis first
        padding.append(0)
        padding.append((multiple[axis] - image.shape[axis + 2] % multiple[axis]) % multiple[axis])
    return functional.pad(image, padding)
